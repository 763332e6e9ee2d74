//! Secrets that are easy to guess, recognised by their text. Judges what repeats itself or follows from what stands before;
//! a word that somebody likes it cannot know.

use std::collections::BTreeSet;

/// Rows of keys, as fingers run over them.
const ROWS: [&[u8]; 5] = [b"qwertyuiop", b"qwertzuiop", b"asdfghjkl", b"zxcvbnm", b"yxcvbnm"];

/// The least number of bytes of a secret that do not follow from those before. Of 64 random hexadecimal digits 47 do not in the middle, and
/// fewer than 33 never did in 20,000 draws.
pub const OF_A_SECRET: usize = 24;
/// The same of a key of 32 bytes: random ones have 32 in the middle, 32 random hexadecimal digits 25.
pub const OF_A_KEY: usize = 12;

/// `true` if a secret is one thing over and over, or has fewer bytes than that which do not follow from those before.
pub fn is_guessable(secret: &[u8], least: usize) -> bool {
    let repeats = |unit: usize| secret.iter().zip(secret.iter().skip(unit)).all(|(byte, later)| byte == later);
    (1..=secret.len() * 3 / 4).any(repeats) || unforeseen(secret) < least
}

/// The number of bytes that do not follow from those before: by being next to the last one, in the alphabet or on a keyboard,
/// by keeping the distance, or by having followed the same byte already. Upper and lower case count as one.
fn unforeseen(secret: &[u8]) -> usize {
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
