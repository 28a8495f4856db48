//! An endless stream of bytes, each eight of which depend on their position
//! alone: whoever knows the position can check what arrived, with no checksum.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

const BLOCK: usize = 64 << 10;

/// Writes the bytes of the stream from `position` into `buffer`. Both are
/// multiples of eight.
pub fn fill(buffer: &mut [u8], position: u64) {
    for (index, word) in buffer.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&word_at(position / 8 + index as u64).to_le_bytes());
    }
}

/// Position of the first byte in `buffer` that isn't the stream's.
pub fn first_difference(buffer: &[u8], position: u64) -> Option<u64> {
    let mut offset = 0;
    while offset < buffer.len() {
        let at = position + offset as u64;
        let word = word_at(at / 8).to_le_bytes();
        let expected = &word[(at % 8) as usize..];
        let length = expected.len().min(buffer.len() - offset);
        let actual = &buffer[offset..offset + length];
        if let Some(wrong) = actual.iter().zip(expected).position(|(a, b)| a != b) {
            return Some(at + wrong as u64);
        }
        offset += length;
    }
    None
}

/// splitmix64 of the word's number.
fn word_at(number: u64) -> u64 {
    let mut word = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Sends the first `length` bytes of the stream; a multiple of eight.
pub fn send(mut stream: &TcpStream, length: u64) {
    let mut buffer = vec![0; BLOCK];
    let mut position = 0;
    while position < length {
        let size = (length - position).min(BLOCK as u64) as usize;
        fill(&mut buffer[..size], position);
        stream
            .write_all(&buffer[..size])
            .unwrap_or_else(|error| panic!("send at byte {position}: {error}"));
        position += size as u64;
    }
}

/// Receives to the end; how many bytes came. Panics at the first wrong one.
pub fn receive(mut stream: &TcpStream) -> u64 {
    let mut buffer = vec![0; BLOCK];
    let mut position = 0;
    loop {
        let length = stream
            .read(&mut buffer)
            .unwrap_or_else(|error| panic!("receive at byte {position}: {error}"));
        if length == 0 {
            return position;
        }
        if let Some(wrong) = first_difference(&buffer[..length], position) {
            panic!("byte {wrong} is wrong");
        }
        position += length as u64;
    }
}
