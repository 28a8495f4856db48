/* What bindgen reads and shim.c implements. Constants that DPDK defines by
 * macros bindgen can't evaluate, and the offsets of the mbuf fields that Rust
 * reads, are computed here by the C compiler's front end from the installed
 * headers. */
#ifndef FULLGATE_WRAPPER_H
#define FULLGATE_WRAPPER_H

#include <stdbool.h>
#include <stdio.h>

#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_hash.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>
#include <rte_memzone.h>
#include <rte_ring.h>
#include <rte_thash.h>

static const size_t FULLGATE_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr);
static const size_t FULLGATE_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off);
static const size_t FULLGATE_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs);
static const size_t FULLGATE_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags);
static const size_t FULLGATE_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len);
static const size_t FULLGATE_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len);
static const size_t FULLGATE_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len);
static const size_t FULLGATE_MBUF_NEXT = offsetof(struct rte_mbuf, next);

static const uint64_t FULLGATE_RX_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t FULLGATE_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t FULLGATE_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t FULLGATE_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t FULLGATE_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t FULLGATE_TX_OFFLOAD_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint64_t FULLGATE_RSS_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t FULLGATE_RSS_IPV4_UDP = RTE_ETH_RSS_NONFRAG_IPV4_UDP;
static const uint64_t FULLGATE_RSS_IPV6_TCP = RTE_ETH_RSS_NONFRAG_IPV6_TCP;
static const uint64_t FULLGATE_RSS_IPV6_UDP = RTE_ETH_RSS_NONFRAG_IPV6_UDP;
static const uint32_t FULLGATE_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;
static const uint32_t FULLGATE_SPEED_UNKNOWN = RTE_ETH_SPEED_NUM_UNKNOWN;
static const uint32_t FULLGATE_RING_SP_SC = RING_F_SP_ENQ | RING_F_SC_DEQ;
static const uint32_t FULLGATE_LOG_ERR = RTE_LOG_ERR;
static const uint32_t FULLGATE_LOG_WARNING = RTE_LOG_WARNING;
static const uint32_t FULLGATE_LOG_INFO = RTE_LOG_INFO;
static const uint32_t FULLGATE_RETA_GROUP = RTE_ETH_RETA_GROUP_SIZE;

/* Takes one message of DPDK's log; not terminated by a zero. */
typedef void (*fullgate_log_sink)(uint32_t level, const char *text, size_t len);

/* State of a link. DPDK's own structure has its fields in other places in other
 * versions, in unions and bit-fields. */
struct fullgate_link {
	uint32_t speed;
	bool up;
	bool full_duplex;
};

int fullgate_errno(void);
int fullgate_link(uint16_t port, struct fullgate_link *out);
uint64_t fullgate_tsc(void);
int fullgate_log_open(fullgate_log_sink sink);
struct rte_mbuf *fullgate_mbuf_alloc(struct rte_mempool *pool);
size_t fullgate_pool_bytes(unsigned count, uint16_t data_room);
struct rte_mempool *fullgate_pool_create(const char *name, unsigned count, unsigned cache,
					 uint16_t data_room, int socket, void *memory,
					 size_t bytes);
void fullgate_mbuf_free(struct rte_mbuf *mbuf);
unsigned fullgate_ring_enqueue_burst(struct rte_ring *ring, void *const *objects, unsigned count);
unsigned fullgate_ring_dequeue_burst(struct rte_ring *ring, void **objects, unsigned count);
uint32_t fullgate_softrss_be(uint32_t *words, uint32_t count, const uint8_t *key);

#endif
