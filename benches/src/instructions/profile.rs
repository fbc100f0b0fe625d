//! What counts come to: a sum, and the functions with the most.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Count, Symbols};

/// Counts by function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// All instructions, those of interrupts of the timer among them.
    pub instructions: u64,
    /// Those in interrupts of the timer.
    pub in_interrupts: u64,
    /// Functions and their instructions, the most first.
    functions: Vec<(String, u64)>,
}

impl Profile {
    /// Adds counts up.
    pub fn new<'a>(counts: impl IntoIterator<Item = &'a Count>, symbols: &Symbols) -> Self {
        let mut functions: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut instructions, mut in_interrupts) = (0_u64, 0_u64);
        for count in counts {
            let sum = functions.entry(symbols.name(count.address)).or_default();
            *sum = sum.saturating_add(count.instructions);
            instructions = instructions.saturating_add(count.instructions);
            if count.in_interrupt {
                in_interrupts = in_interrupts.saturating_add(count.instructions);
            }
        }
        let mut functions: Vec<_> = functions.into_iter().map(|(name, sum)| (name.to_owned(), sum)).collect();
        functions.sort_by(|(one, more), (other, less)| less.cmp(more).then(one.cmp(other)));
        Self { instructions, in_interrupts, functions }
    }

    /// A table of the functions with the most instructions.
    pub fn table(&self, rows: usize) -> String {
        let mut table = String::from("| function | instructions | of all |\n|---|--:|--:|\n");
        for (name, sum) in self.functions.iter().take(rows) {
            let share = *sum as f64 * 100.0 / self.instructions.max(1) as f64;
            // Writing to a String does not fail.
            let _ = writeln!(table, "| `{name}` | {} | {share:.1} % |", grouped(*sum));
        }
        table
    }

    /// The functions with the most instructions, and their shares, in a line.
    pub fn most(&self, functions: usize) -> String {
        let share = |sum: u64| sum as f64 * 100.0 / self.instructions.max(1) as f64;
        let most = self.functions.iter().take(functions);
        most.map(|(name, sum)| format!("`{name}` {:.0} %", share(*sum))).collect::<Vec<_>>().join(", ")
    }
}

/// A number with its digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_added_up_and_ordered() {
        let symbols = Symbols::parse("ffffffff81000000 T a\nffffffff81000100 t b\n");
        let count =
            |address, instructions, in_interrupt| Count { process: 1, at_ns: 0, in_interrupt, address, instructions };
        let counts = [
            count(0xffff_ffff_8100_0000, 3, false),
            count(0xffff_ffff_8100_0100, 5, true),
            count(0xffff_ffff_8100_0104, 12, false),
        ];
        let profile = Profile::new(&counts, &symbols);
        assert_eq!((profile.instructions, profile.in_interrupts), (20, 5));
        assert_eq!(profile.functions, [("b".to_owned(), 17), ("a".to_owned(), 3)]);
        assert!(profile.table(1).ends_with("| `b` | 17 | 85.0 % |\n"), "{}", profile.table(1));
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!([0, 12, 123, 1234, 14_000_000].map(grouped), ["0", "12", "123", "1,234", "14,000,000"]);
    }
}
