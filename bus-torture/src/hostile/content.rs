//! What honest messages hold: bytes that follow from who sent them and which one they are, so that any other byte shows.

/// Bytes of message `sequence` of the publisher with this salt: at most `longest`, most of them short.
#[must_use]
pub fn length(salt: u64, sequence: u64, longest: usize) -> usize {
    let chance = mix(salt ^ sequence.rotate_left(17)) as usize;
    if chance.is_multiple_of(4) {
        chance / 4 % (longest + 1)
    } else {
        chance / 4 % (longest.min(48) + 1)
    }
}

/// Writes the message's bytes.
pub fn write(salt: u64, sequence: u64, bytes: &mut [u8]) {
    let mut state = mix(salt ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&state.to_le_bytes()[..part.len()]);
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
    }
}

/// Whether these are the message's bytes, all of them.
#[must_use]
pub fn is_right(salt: u64, sequence: u64, longest: usize, bytes: &[u8]) -> bool {
    if bytes.len() != length(salt, sequence, longest) {
        return false;
    }
    let mut state = mix(salt ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bytes.chunks(8).all(|part| {
        let right = part == &state.to_le_bytes()[..part.len()];
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        right
    })
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// Reads every byte, so that one that is not there would be noticed by the kernel or a sanitizer.
#[must_use]
pub fn read(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add((*byte).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_more_less_or_other_is_noticed() {
        for sequence in 0..500 {
            let mut bytes = vec![0; length(7, sequence, 200)];
            write(7, sequence, &mut bytes);
            assert!(is_right(7, sequence, 200, &bytes));
            assert!(!is_right(8, sequence, 200, &bytes) || bytes.is_empty());
            bytes.push(0);
            assert!(!is_right(7, sequence, 200, &bytes));
            bytes.pop();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
                assert!(!is_right(7, sequence, 200, &bytes));
            }
        }
    }
}
