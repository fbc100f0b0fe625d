//! Numbers that look random and are the same in each run: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
//! number generators", 2014). What it writes can't be compressed.

use std::io::{self, Write};

/// A generator; equal seeds give equal numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts with `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `choices`; `None` when there is none.
    pub fn choose<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(choices.len()).ok()?;
        choices.get(usize::try_from(self.number().checked_rem(count)?).ok()?)
    }

    /// Writes this many bytes.
    pub fn write(&mut self, bytes: u64, out: &mut impl Write) -> io::Result<()> {
        let mut block = Vec::with_capacity(1 << 16);
        let mut left = bytes;
        while left > 0 {
            block.clear();
            while block.len() < 1 << 16 {
                block.extend_from_slice(&self.number().to_le_bytes());
            }
            block.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            out.write_all(&block)?;
            left = left.saturating_sub(block.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_reference_implementation() {
        let mut random = Random::new(1_234_567);
        let numbers = [(); 3].map(|()| random.number());
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn any_length_is_written_and_seeds_differ() {
        for length in [0, 1, 65_536, 65_537, 200_001] {
            let write = |seed| {
                let mut out = Vec::new();
                Random::new(seed).write(length, &mut out).unwrap();
                out
            };
            assert_eq!(write(1).len() as u64, length);
            assert_eq!(write(1), write(1));
            assert!(length < 2 || write(1) != write(2));
        }
    }

    #[test]
    fn every_choice_is_made_sometimes_and_none_from_nothing() {
        let mut random = Random::new(0);
        let mut seen: Vec<_> = (0..100).filter_map(|_| random.choose(&["a", "b", "c"])).collect();
        assert_eq!(seen.len(), 100);
        seen.sort();
        seen.dedup();
        assert_eq!(seen, [&"a", &"b", &"c"]);
        assert_eq!(random.choose::<u8>(&[]), None);
    }
}
