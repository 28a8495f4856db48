/* DPDK's static inline functions, and its structures that differ from version
 * to version, for Rust to call: all of them per packet at most where a packet is
 * made or dropped, else per burst or at start. */
#define _GNU_SOURCE

#include "wrapper.h"

_Static_assert(sizeof(((struct rte_mbuf *)0)->buf_addr) == 8, "read as a pointer");
_Static_assert(sizeof(((struct rte_mbuf *)0)->data_off) == 2, "read as u16");
_Static_assert(sizeof(((struct rte_mbuf *)0)->nb_segs) == 2, "read as u16");
_Static_assert(sizeof(((struct rte_mbuf *)0)->ol_flags) == 8, "read as u64");
_Static_assert(sizeof(((struct rte_mbuf *)0)->pkt_len) == 4, "read as u32");
_Static_assert(sizeof(((struct rte_mbuf *)0)->data_len) == 2, "read as u16");
_Static_assert(sizeof(((struct rte_mbuf *)0)->buf_len) == 2, "read as u16");
_Static_assert(sizeof(((struct rte_mbuf *)0)->next) == 8, "read as a pointer");

int fullgate_errno(void)
{
	return rte_errno;
}

/* As rte_eth_link_get_nowait. */
int fullgate_link(uint16_t port, struct fullgate_link *out)
{
	struct rte_eth_link link = { 0 };
	int code = rte_eth_link_get_nowait(port, &link);

	*out = (struct fullgate_link){
		.speed = link.link_speed,
		.up = link.link_status == RTE_ETH_LINK_UP,
		.full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX,
	};
	return code;
}

uint64_t fullgate_tsc(void)
{
	return rte_rdtsc();
}

struct rte_mbuf *fullgate_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

static unsigned element_size(uint16_t data_room)
{
	return (unsigned)sizeof(struct rte_mbuf) + data_room;
}

/* Memory that fullgate_pool_create wants for a pool. */
size_t fullgate_pool_bytes(unsigned count, uint16_t data_room)
{
	struct rte_mempool_objsz size;

	rte_mempool_calc_obj_size(element_size(data_room), RTE_MEMPOOL_F_NO_IOVA_CONTIG, &size);
	return (size_t)count * size.total_size + RTE_MEMPOOL_ALIGN;
}

/* As rte_pktmbuf_pool_create; but where the caller gives memory the buffers are
 * in it, and no device may read or write them by itself. NULL with rte_errno
 * set. */
struct rte_mempool *fullgate_pool_create(const char *name, unsigned count, unsigned cache,
					 uint16_t data_room, int socket, void *memory,
					 size_t bytes)
{
	struct rte_pktmbuf_pool_private room = { .mbuf_data_room_size = data_room };
	struct rte_mempool *pool;
	int code;

	if (memory == NULL)
		return rte_pktmbuf_pool_create(name, count, cache, 0, data_room, socket);
	pool = rte_mempool_create_empty(name, count, element_size(data_room), cache, sizeof(room),
					socket, RTE_MEMPOOL_F_NO_IOVA_CONTIG);
	if (pool == NULL)
		return NULL;
	code = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
	if (code == 0) {
		rte_pktmbuf_pool_init(pool, &room);
		code = rte_mempool_populate_iova(pool, memory, RTE_BAD_IOVA, bytes, NULL, NULL);
	}
	if (code != (int)count) {
		rte_errno = code < 0 ? -code : ENOMEM;
		rte_mempool_free(pool);
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}

void fullgate_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

unsigned fullgate_ring_enqueue_burst(struct rte_ring *ring, void *const *objects, unsigned count)
{
	return rte_ring_enqueue_burst(ring, objects, count, NULL);
}

unsigned fullgate_ring_dequeue_burst(struct rte_ring *ring, void **objects, unsigned count)
{
	return rte_ring_dequeue_burst(ring, objects, count, NULL);
}

uint32_t fullgate_softrss_be(uint32_t *words, uint32_t count, const uint8_t *key)
{
	return rte_softrss_be(words, count, key);
}

/* rte_log flushes the stream after each message, so a write is one message and
 * the level of the current message is its level. */
static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	fullgate_log_sink sink = *(fullgate_log_sink *)cookie;

	sink((uint32_t)rte_log_cur_msg_loglevel(), text, len);
	return (ssize_t)len;
}

int fullgate_log_open(fullgate_log_sink sink)
{
	static fullgate_log_sink kept;
	FILE *stream;

	kept = sink;
	stream = fopencookie(&kept, "w", (cookie_io_functions_t){ .write = log_write });
	return stream == NULL ? -1 : rte_openlog_stream(stream);
}
