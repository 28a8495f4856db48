//! One vector compare as a safe call.

/// Bit i is set where lane i is `value`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn lanes_equal(lanes: [u16; 8], value: u16) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi16, _mm_set1_epi16,
        _mm_setzero_si128,
    };
    let [a, b, c, d, e, f, g, h] = lanes.map(u16::cast_signed);
    // SAFETY: the instructions are part of SSE2, which every x86-64 processor
    // has; they work on values, no memory is named.
    unsafe {
        let lanes = _mm_set_epi16(h, g, f, e, d, c, b, a);
        let equal = _mm_cmpeq_epi16(lanes, _mm_set1_epi16(value.cast_signed()));
        // A byte for each lane, all ones or all zeros; the upper eight are zeros.
        _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u32
    }
}

/// Bit i is set where lane i is `value`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn lanes_equal(lanes: [u16; 8], value: u16) -> u32 {
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
}
