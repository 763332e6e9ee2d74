//! The detection of weak secrets: text that repeats itself or runs in sequence. It does not know common words.

use std::collections::BTreeSet;

/// The rows of keyboards.
const ROWS: [&[u8]; 5] = [b"qwertyuiop", b"qwertzuiop", b"asdfghjkl", b"zxcvbnm", b"yxcvbnm"];

/// The minimum number of unpredictable bytes of a secret. 64 random hexadecimal digits have 47 on average, and never had fewer
/// than 33 in 20,000 draws.
pub const OF_A_SECRET: usize = 24;
/// The minimum number of unpredictable bytes of a 32-byte key. Random keys have 32 on average, 32 random hexadecimal digits 25.
pub const OF_A_KEY: usize = 12;

/// `true` if a secret repeats one unit, or has fewer than `least` unpredictable bytes.
pub fn is_guessable(secret: &[u8], least: usize) -> bool {
    let repeats = |unit: usize| secret.iter().zip(secret.iter().skip(unit)).all(|(byte, later)| byte == later);
    (1..=secret.len() * 3 / 4).any(repeats) || unpredictable_bytes(secret) < least
}

/// Counts the unpredictable bytes. A byte is predictable if it is next to the last byte in the alphabet or on a keyboard, if it
/// keeps the distance, or if it followed the same byte before. Case is ignored.
fn unpredictable_bytes(secret: &[u8]) -> usize {
    let mut pairs = BTreeSet::new();
    let (mut last, mut last_step) = (None, None);
    let mut count = 0;
    for byte in secret.iter().map(u8::to_ascii_lowercase) {
        let Some(before) = last.replace(byte) else {
            count += 1;
            continue;
        };
        let step = i16::from(byte) - i16::from(before);
        let keeps_step = last_step.replace(step) == Some(step);
        let is_known = !pairs.insert((before, byte));
        if !(step.abs() <= 1 || keeps_step || is_known || are_neighbours(before, byte)) {
            count += 1;
        }
    }
    count
}

fn are_neighbours(one: u8, other: u8) -> bool {
    let stand_so = |pair: &[u8]| pair == [one, other] || pair == [other, one];
    ROWS.iter().any(|row| row.windows(2).any(stand_so))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use fulexo_commands::vault::crypto::random_bytes;

    use super::*;

    #[test]
    fn what_a_generator_makes_is_never_taken_for_weak() {
        for _ in 0..2_000 {
            let bytes = random_bytes::<48>().unwrap();
            let (key, digits) = (&bytes[..32], fulexo_domain::jetstream::hex(&bytes[..32]));
            assert!(!is_guessable(key, OF_A_KEY));
            assert!(!is_guessable(&digits.as_bytes()[..32], OF_A_KEY), "{digits}");
            assert!(!is_guessable(digits.as_bytes(), OF_A_SECRET), "{digits}");
            let text = STANDARD.encode(bytes);
            assert!(!is_guessable(text.as_bytes(), OF_A_SECRET), "{text}");
        }
    }
}
