//! Which parts of a guest's memory a memory file holds.
//!
//! A page that is all zeros need not be held: memory that is mapped without a file is zeros too, and what the guest writes
//! there is not copied from anywhere. But each part is a mapping, so short rows of zeros are held with what is around
//! them, and there are never more than [`MAX_EXTENTS`] parts.

use serde::{Deserialize, Serialize};

/// The unit, in bytes.
pub const PAGE: u64 = 4096;

/// The most parts.
pub const MAX_EXTENTS: usize = 256;

/// The shortest row of zeros that is left out, in bytes.
const MIN_GAP: u64 = 64 * PAGE;

/// A part of the memory, as an offset into the file, where the memory above the hole follows that below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where it starts, in bytes: a multiple of [`PAGE`].
    pub start: u64,
    /// How long it is, in bytes: a multiple of [`PAGE`] above 0.
    pub length: u64,
}

impl Extent {
    /// Where it ends, as far as 64 bits go.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// The part of it that lies in a range, if there is one.
    #[must_use]
    pub fn within(self, start: u64, end: u64) -> Option<Self> {
        let (start, end) = (self.start.max(start), self.end().min(end));
        end.checked_sub(start).filter(|length| *length > 0).map(|length| Self { start, length })
    }
}

/// Whether these are whole pages in a memory of `size` bytes, in order, without overlap, and not too many.
#[must_use]
pub fn are_right(extents: &[Extent], size: u64) -> bool {
    let whole = |extent: &Extent| {
        let Extent { start, length } = *extent;
        let end = start.checked_add(length);
        length > 0 && start.is_multiple_of(PAGE) && length.is_multiple_of(PAGE) && end.is_some_and(|end| end <= size)
    };
    let in_order = extents.windows(2).all(|pair| matches!(pair, [a, b] if a.end() <= b.start));
    extents.len() <= MAX_EXTENTS && extents.iter().all(whole) && in_order
}

/// Collects the parts of a memory, whose pages come in order.
#[derive(Debug)]
pub struct Collector {
    extents: Vec<Extent>,
    /// The shortest row of other pages that is left out, in bytes.
    min_gap: u64,
}

impl Default for Collector {
    /// Collects pages that are not all zeros.
    fn default() -> Self {
        Self { extents: Vec::new(), min_gap: MIN_GAP }
    }
}

impl Collector {
    /// Collects these pages and no others, unless there would be too many parts.
    #[must_use]
    pub fn exact() -> Self {
        Self { extents: Vec::new(), min_gap: PAGE }
    }

    /// Adds a page at `start`.
    pub fn add(&mut self, start: u64) {
        match self.extents.last_mut() {
            Some(last) if start.saturating_sub(last.end()) < self.min_gap => {
                last.length = start.saturating_sub(last.start).saturating_add(PAGE);
            }
            _ => self.extents.push(Extent { start, length: PAGE }),
        }
    }

    /// The parts, joined where there are too many: over the shortest gaps.
    #[must_use]
    pub fn finish(self) -> Vec<Extent> {
        let surplus = self.extents.len().saturating_sub(MAX_EXTENTS);
        if surplus == 0 {
            return self.extents;
        }
        let gap = |pair: &[Extent]| match pair {
            [a, b] => b.start.saturating_sub(a.end()),
            _ => u64::MAX,
        };
        let mut gaps: Vec<(u64, usize)> = self.extents.windows(2).map(gap).zip(1..).collect();
        gaps.sort_unstable();
        let mut joined: Vec<usize> = gaps.into_iter().take(surplus).map(|(_, place)| place).collect();
        joined.sort_unstable();
        let mut extents: Vec<Extent> = Vec::with_capacity(MAX_EXTENTS);
        for (place, extent) in self.extents.into_iter().enumerate() {
            match extents.last_mut() {
                Some(last) if joined.binary_search(&place).is_ok() => {
                    last.length = extent.end().saturating_sub(last.start);
                }
                _ => extents.push(extent),
            }
        }
        extents
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collect(pages: impl IntoIterator<Item = u64>) -> Vec<Extent> {
        let mut collector = Collector::default();
        pages.into_iter().for_each(|page| collector.add(page * PAGE));
        collector.finish()
    }

    fn extent(first: u64, pages: u64) -> Extent {
        Extent { start: first * PAGE, length: pages * PAGE }
    }

    #[test]
    fn short_rows_of_zeros_are_held() {
        assert_eq!(collect([]), []);
        assert_eq!(collect([0, 1, 65]), [extent(0, 66)]);
        assert_eq!(collect([0, 1, 66]), [extent(0, 2), extent(66, 1)]);
    }

    #[test]
    fn exactly_the_pages_are_collected_that_are_wanted() {
        let mut collector = Collector::exact();
        [0, 1, 3].into_iter().for_each(|page| collector.add(page * PAGE));
        assert_eq!(collector.finish(), [extent(0, 2), extent(3, 1)]);
    }

    #[test]
    fn the_shortest_gaps_are_given_up_first() {
        let pages = (0..=MAX_EXTENTS as u64).map(|index| index * 1000 + if index == 7 { 10 } else { 0 });
        let extents = collect(pages);
        assert_eq!(extents.len(), MAX_EXTENTS);
        assert_eq!(extents[7], extent(7010, 991));
    }

    #[test]
    fn parts_that_cannot_be_are_refused() {
        let size = 16 * PAGE;
        assert!(are_right(&[], size));
        assert!(are_right(&[extent(0, 8), extent(8, 8)], size));
        for wrong in [
            &[extent(0, 17)][..],
            &[extent(0, 0)],
            &[extent(1, 2), extent(2, 1)],
            &[extent(2, 1), extent(0, 1)],
            &[Extent { start: 1, length: PAGE }],
            &[Extent { start: 0, length: 1 }],
            &[Extent { start: u64::MAX - PAGE + 1, length: PAGE }],
        ] {
            assert!(!are_right(wrong, size), "{wrong:?}");
        }
        let many: Vec<_> = (0..=MAX_EXTENTS as u64).map(|index| extent(index * 2, 1)).collect();
        assert!(!are_right(&many, 1 << 30));
    }

    #[test]
    fn a_part_is_cut_to_a_range() {
        assert_eq!(extent(2, 4).within(3 * PAGE, 100 * PAGE), Some(extent(3, 3)));
        assert_eq!(extent(2, 4).within(0, 3 * PAGE), Some(extent(2, 1)));
        assert_eq!(extent(2, 4).within(6 * PAGE, 8 * PAGE), None);
    }

    proptest! {
        #[test]
        fn every_page_is_in_a_part(pages in prop::collection::btree_set(0_u64..40_000, 0..2000)) {
            let extents = collect(pages.iter().copied());
            prop_assert!(are_right(&extents, 40_000 * PAGE));
            for page in pages {
                prop_assert!(extents.iter().any(|extent| extent.start <= page * PAGE && page * PAGE < extent.end()));
            }
        }
    }
}
