//! bcrypt for several hashes at once on one core.
//!
//! A hash is a long chain of table look-ups: each round of Blowfish waits for the one before, and the core idles
//! meanwhile. Independent hashes have independent chains. One loop therefore interleaves the rounds of up to
//! [`MAX_LANES`] hashes, lane by lane, so that the core works on one lane while it waits for another. Each lane has
//! its own P-array and S-boxes (4 KiB; all lanes fit into the first-level cache).
//!
//! The result is that of bcrypt (N. Provos and D. Mazières, "A Future-Adaptable Password Scheme", USENIX 1999), bit for
//! bit identical to that of the `bcrypt` crate. The tests compare the two, and the caller does so once before its first
//! use.

#![expect(clippy::indexing_slicing, reason = "every index is below the length of its array, by its type or its loop")]

mod pi;

use zeroize::Zeroize;

/// The maximum number of hashes at once. One more would exceed the first-level cache of common cores (32 KiB).
pub const MAX_LANES: usize = 6;
/// The number of significant bytes in a password, including the final zero.
const MAX_KEY_BYTES: usize = 72;

/// The input of one hash.
#[derive(Clone, Copy)]
pub struct HashInput<'a> {
    /// The password, at most 72 bytes. A zero byte follows if there is room (variants 2a, 2b, 2y).
    pub password: &'a [u8],
    /// The random salt.
    pub salt: [u8; 16],
}

/// Computes the hashes of these inputs, in their order, of 24 bytes each. The text form of bcrypt keeps 23 of them.
/// `cost` is the binary logarithm of the number of rounds, at most 31.
#[must_use]
pub fn bcrypt(inputs: &[HashInput<'_>], cost: u32) -> Vec<[u8; 24]> {
    let mut hashes = Vec::with_capacity(inputs.len());
    for batch in inputs.chunks(MAX_LANES) {
        match *batch {
            [a] => hashes.extend(lanes([a], cost)),
            [a, b] => hashes.extend(lanes([a, b], cost)),
            [a, b, c] => hashes.extend(lanes([a, b, c], cost)),
            [a, b, c, d] => hashes.extend(lanes([a, b, c, d], cost)),
            [a, b, c, d, e] => hashes.extend(lanes([a, b, c, d, e], cost)),
            [a, b, c, d, e, f] => hashes.extend(lanes([a, b, c, d, e, f], cost)),
            _ => {}
        }
    }
    hashes
}

/// The cipher of one lane.
#[derive(Clone, Zeroize)]
struct Blowfish {
    p: [u32; 18],
    s: [[u32; 256]; 4],
}

/// The ciphers of all lanes, and the words of their keys; wiped when dropped.
struct Lanes<const N: usize> {
    ciphers: Box<[Blowfish; N]>,
    keys: [[u32; 18]; N],
    salts: [[u32; 4]; N],
}

impl<const N: usize> Drop for Lanes<N> {
    fn drop(&mut self) {
        self.ciphers.iter_mut().for_each(Zeroize::zeroize);
        self.keys.zeroize();
        self.salts.zeroize();
    }
}

fn lanes<const N: usize>(inputs: [HashInput<'_>; N], cost: u32) -> [[u8; 24]; N] {
    let mut lanes = Lanes {
        ciphers: Box::new(std::array::from_fn(|_| Blowfish::new())),
        keys: inputs.map(|input| key_words(input.password)),
        salts: inputs.map(|input| words(&input.salt)),
    };
    lanes.expand_with_salt();
    for _ in 0..1_u64 << cost.min(31) {
        let Lanes { ciphers, keys, salts } = &mut lanes;
        expand(ciphers, keys);
        expand(ciphers, &salts.map(|salt| std::array::from_fn(|i| salt[i % 4])));
    }
    // Encrypts "OrpheanBeholderScryDoubt" 64 times.
    let mut text: [[u32; 6]; N] = [words(b"OrpheanBeholderScryDoubt"); N];
    for half in 0..3 {
        for _ in 0..64 {
            let blocks = text.map(|text| [text[2 * half], text[2 * half + 1]]);
            for (text, [left, right]) in text.iter_mut().zip(encrypt(&lanes.ciphers, blocks)) {
                (text[2 * half], text[2 * half + 1]) = (left, right);
            }
        }
    }
    text.map(|text| {
        let mut bytes = [0; 24];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(text) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    })
}

impl Blowfish {
    fn new() -> Self {
        let mut words = pi::WORDS.into_iter();
        let mut next = || words.next().unwrap_or_default();
        let p = std::array::from_fn(|_| next());
        let s = std::array::from_fn(|_| std::array::from_fn(|_| next()));
        Self { p, s }
    }

    /// The round function of Blowfish.
    #[inline(always)]
    fn f(&self, word: u32) -> u32 {
        let [a, b, c, d] = word.to_be_bytes().map(usize::from);
        (self.s[0][a].wrapping_add(self.s[1][b]) ^ self.s[2][c]).wrapping_add(self.s[3][d])
    }
}

/// Encrypts one block per lane. The rounds of the lanes alternate, which makes the interleaving effective.
#[inline(always)]
fn encrypt<const N: usize>(ciphers: &[Blowfish; N], mut blocks: [[u32; 2]; N]) -> [[u32; 2]; N] {
    for round in 0..8 {
        for (cipher, [left, right]) in ciphers.iter().zip(&mut blocks) {
            *left ^= cipher.p[2 * round];
            *right ^= cipher.f(*left);
        }
        for (cipher, [left, right]) in ciphers.iter().zip(&mut blocks) {
            *right ^= cipher.p[2 * round + 1];
            *left ^= cipher.f(*right);
        }
    }
    for (cipher, [left, right]) in ciphers.iter().zip(&mut blocks) {
        (*left, *right) = (*right ^ cipher.p[17], *left ^ cipher.p[16]);
    }
    blocks
}

/// ExpandKey of bcrypt with a zero salt: adds the key to the P-array, then replaces both arrays by the output of the
/// cipher.
fn expand<const N: usize>(ciphers: &mut [Blowfish; N], keys: &[[u32; 18]; N]) {
    for (cipher, key) in ciphers.iter_mut().zip(keys) {
        cipher.p.iter_mut().zip(key).for_each(|(p, key)| *p ^= key);
    }
    let mut blocks = [[0; 2]; N];
    for i in 0..9 {
        blocks = encrypt(ciphers, blocks);
        for (cipher, block) in ciphers.iter_mut().zip(blocks) {
            [cipher.p[2 * i], cipher.p[2 * i + 1]] = block;
        }
    }
    for s in 0..4 {
        for i in 0..128 {
            blocks = encrypt(ciphers, blocks);
            for (cipher, block) in ciphers.iter_mut().zip(blocks) {
                [cipher.s[s][2 * i], cipher.s[s][2 * i + 1]] = block;
            }
        }
    }
}

impl<const N: usize> Lanes<N> {
    /// ExpandKey of bcrypt with a salt, the first step of the key schedule.
    fn expand_with_salt(&mut self) {
        let Self { ciphers, keys, salts } = self;
        for (cipher, key) in ciphers.iter_mut().zip(keys.iter()) {
            cipher.p.iter_mut().zip(key).for_each(|(p, key)| *p ^= key);
        }
        let mut blocks = [[0; 2]; N];
        for i in 0..9 + 4 * 128 {
            for (block, salt) in blocks.iter_mut().zip(salts.iter()) {
                block[0] ^= salt[2 * i % 4];
                block[1] ^= salt[2 * i % 4 + 1];
            }
            blocks = encrypt(ciphers, blocks);
            for (cipher, [left, right]) in ciphers.iter_mut().zip(blocks) {
                let words = match i.checked_sub(9) {
                    None => &mut cipher.p[2 * i..2 * i + 2],
                    Some(i) => &mut cipher.s[i / 128][2 * (i % 128)..2 * (i % 128) + 2],
                };
                words.copy_from_slice(&[left, right]);
            }
        }
    }
}

/// Returns eighteen words of the repeated key.
fn key_words(password: &[u8]) -> [u32; 18] {
    let with_zero = password.len().saturating_add(1).min(MAX_KEY_BYTES);
    let mut bytes = password.iter().copied().chain([0]).take(with_zero).cycle();
    std::array::from_fn(|_| u32::from_be_bytes(std::array::from_fn(|_| bytes.next().unwrap_or_default())))
}

fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u32; WORDS] {
    std::array::from_fn(|i| u32::from_be_bytes(std::array::from_fn(|j| bytes[4 * i + j])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the hash by the `bcrypt` crate.
    fn reference(input: HashInput<'_>, cost: u32) -> [u8; 24] {
        let mut key = input.password.to_vec();
        key.push(0);
        key.truncate(MAX_KEY_BYTES);
        ::bcrypt::bcrypt(cost, input.salt, &key)
    }

    #[test]
    fn published_vectors() {
        // The test vectors of jBCrypt (D. Miller): password, text form.
        let vectors = [
            ("", "$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s."),
            ("a", "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe"),
            ("abc", "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"),
            ("abcdefghijklmnopqrstuvwxyz", "$2a$06$.rCVZVOThsIa97pEDOxvGuRRgzG64bvtJ0938xuqzv18d3ZpQhstC"),
            ("~!@#$%^&*()      ~!@#$%^&*()PNBFRD", "$2a$06$fPIsBO8qRqkjj273rfaOI.HtSV9jLDpTbZn782DC6/t7qT67P6FfO"),
        ];
        for (password, text) in vectors {
            let parts: ::bcrypt::HashParts = text.parse().unwrap();
            let input = HashInput { password: password.as_bytes(), salt: parts.get_salt_raw() };
            let hash = bcrypt(&[input], 6)[0];
            let made = base64_of(&hash[..23]);
            assert_eq!(made, text[29..], "{password:?}");
        }
    }

    fn base64_of(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for i in 0..=chunk.len() {
                text.push(char::from(ALPHABET[(word >> (18 - 6 * i) & 63) as usize]));
            }
        }
        text
    }

    #[test]
    fn every_length_and_every_number_of_lanes() {
        let passwords: Vec<Vec<u8>> = (0..=72).map(|length| (0..length).map(|i| i as u8 ^ 0xa5).collect()).collect();
        let inputs: Vec<HashInput<'_>> = passwords
            .iter()
            .map(|password| HashInput { password, salt: std::array::from_fn(|i| password.len() as u8 ^ i as u8) })
            .collect();
        for lanes in 1..=MAX_LANES {
            for batch in inputs.chunks(lanes) {
                let expected: Vec<_> = batch.iter().map(|input| reference(*input, 4)).collect();
                assert_eq!(bcrypt(batch, 4), expected);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Lanes do not influence each other, and each has the result of the `bcrypt` crate.
        #[test]
        fn bit_for_bit_the_crate(
            inputs in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..=72), any::<[u8; 16]>()), 0..=13),
            cost in 4_u32..=8,
        ) {
            let inputs: Vec<HashInput<'_>> =
                inputs.iter().map(|(password, salt)| HashInput { password, salt: *salt }).collect();
            let expected: Vec<_> = inputs.iter().map(|input| reference(*input, cost)).collect();
            prop_assert_eq!(bcrypt(&inputs, cost), expected);
        }
    }
}
