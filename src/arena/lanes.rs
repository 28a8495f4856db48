//! One vector compare as a safe call.

/// Bit i is set where lane i is `value`. For 8 to 16 lanes.
///
/// Two compares of eight lanes each, the first and the last ones, which overlap
/// where there are fewer than 16.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn lanes_equal<const N: usize>(lanes: [u16; N], value: u16) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
    };
    const { assert!(N >= 8 && N <= 16) }
    let (Some(first), Some(last)) = (lanes.first_chunk::<8>(), lanes.last_chunk::<8>()) else {
        return 0;
    };
    // SAFETY: the instructions are part of SSE2, which every x86-64 processor
    // has; they work on values, no memory is named. Eight lanes and a vector
    // register are of one size, and any bits are good in both.
    let bytes = unsafe {
        let value = _mm_set1_epi16(value.cast_signed());
        let equal = |lanes: [u16; 8]| {
            _mm_cmpeq_epi16(std::mem::transmute::<[u16; 8], __m128i>(lanes), value)
        };
        // A byte for each lane, all ones or all zeros.
        _mm_movemask_epi8(_mm_packs_epi16(equal(*first), equal(*last))) as u32
    };
    // Bit 8 is of lane N - 8.
    bytes & 0xff | (bytes >> 8) << (N - 8)
}

/// Bit i is set where lane i is `value`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn lanes_equal<const N: usize>(lanes: [u16; N], value: u16) -> u32 {
    (0..)
        .zip(lanes)
        .fold(0, |mask, (at, lane)| mask | u32::from(lane == value) << at)
}

#[cfg(test)]
mod tests {
    use super::lanes_equal;

    #[test]
    fn each_lane_has_its_bit() {
        for at in 0..8 {
            for value in [0, 1, 0x7fff, 0x8000, 0xffff] {
                let mut lanes = [!value; 8];
                lanes[at] = value;
                assert_eq!(lanes_equal(lanes, value), 1 << at);
            }
        }
        assert_eq!(lanes_equal([7; 8], 7), 0xff);
        assert_eq!(lanes_equal([7; 8], 8), 0);
    }

    #[test]
    fn of_any_number() {
        for at in 0..10 {
            let mut lanes = [3; 10];
            lanes[at] = 5;
            assert_eq!(lanes_equal(lanes, 5), 1 << at);
            assert_eq!(lanes_equal(lanes, 3), 0x3ff & !(1 << at));
        }
        assert_eq!(lanes_equal([7; 16], 7), 0xffff);
    }
}
