//! Chance that is the same in every run.

/// Numbers that look random (SplitMix64), from a seed.
pub struct Dice(pub u64);

impl Dice {
    /// Returns a number from 0 to one less than `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    /// Returns an index into `length` items.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.roll(length as u64)).unwrap()
    }

    /// Returns a number from `least` to `most`, both included.
    pub fn between(&mut self, least: i64, most: i64) -> i64 {
        least + i64::try_from(self.roll((most - least).unsigned_abs() + 1)).unwrap()
    }

    /// Returns one of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        *of.get(self.index(of.len())).unwrap()
    }
}
