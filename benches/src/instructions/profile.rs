//! What counts come to: a sum, and the functions with the most.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Count, Symbols};

/// Counts by function. Interrupts of the timer are told apart: how many there are is a matter of how slow the host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Instructions of the work itself.
    pub work: u64,
    /// Those in interrupts of the timer.
    pub interrupts: u64,
    /// The most of the work first.
    functions: Vec<Function>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    name: String,
    work: u64,
    interrupts: u64,
}

impl Profile {
    /// Adds counts up.
    pub fn new<'a>(counts: impl IntoIterator<Item = &'a Count>, symbols: &Symbols) -> Self {
        let mut functions: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
        for count in counts {
            let [work, interrupts] = functions.entry(symbols.name(count.address)).or_default();
            let sum = if count.in_interrupt { interrupts } else { work };
            *sum = sum.saturating_add(count.instructions);
        }
        let function =
            |(name, [work, interrupts]): (&str, [u64; 2])| Function { name: name.to_owned(), work, interrupts };
        let mut functions: Vec<Function> = functions.into_iter().map(function).collect();
        functions.sort_by(|one, other| other.work.cmp(&one.work).then_with(|| one.name.cmp(&other.name)));
        let work = functions.iter().map(|function| function.work).sum();
        let interrupts = functions.iter().map(|function| function.interrupts).sum();
        Self { work, interrupts, functions }
    }

    /// Everything.
    pub fn all(&self) -> u64 {
        self.work.saturating_add(self.interrupts)
    }

    /// The share of the work, in percent.
    fn share(&self, function: &Function) -> f64 {
        function.work as f64 * 100.0 / self.work.max(1) as f64
    }

    /// A table of the functions with the most instructions.
    pub fn table(&self, rows: usize) -> String {
        let mut table =
            String::from("| function | instructions | of the work | in interrupts, besides |\n|---|--:|--:|--:|\n");
        for function in self.functions.iter().take(rows) {
            let Function { name, work, interrupts } = function;
            let (share, [work, interrupts]) = (self.share(function), [*work, *interrupts].map(grouped));
            // Writing to a String does not fail.
            let _ = writeln!(table, "| `{name}` | {work} | {share:.1} % | {interrupts} |");
        }
        table
    }

    /// The functions with the most instructions, and their shares, in a line.
    pub fn most(&self, functions: usize) -> String {
        let most = self.functions.iter().take(functions).filter(|function| function.work > 0);
        let most = most.map(|function| format!("`{}` {:.0} %", function.name, self.share(function)));
        most.collect::<Vec<_>>().join(", ")
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
        assert_eq!((profile.work, profile.interrupts, profile.all()), (15, 5, 20));
        assert!(profile.table(1).ends_with("|\n| `b` | 12 | 80.0 % | 5 |\n"), "{}", profile.table(1));
        assert_eq!(profile.most(6), "`b` 80 %, `a` 20 %");
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!([0, 12, 123, 1234, 14_000_000].map(grouped), ["0", "12", "123", "1,234", "14,000,000"]);
    }
}
