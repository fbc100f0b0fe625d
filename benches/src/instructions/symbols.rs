//! Names for addresses of the guest's kernel, by its `System.map`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Where the kernel's image is mapped; until its page tables are loaded it runs that much lower.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// The functions of a kernel.
#[derive(Debug)]
pub struct Symbols {
    /// By address; of several at one address the first.
    functions: BTreeMap<u64, String>,
    addresses: HashMap<String, u64>,
}

impl Symbols {
    /// Reads a `System.map`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))?;
        Ok(Self::parse(&text))
    }

    /// Takes the symbols in code.
    pub(super) fn parse(text: &str) -> Self {
        let (mut functions, mut addresses) = (BTreeMap::new(), HashMap::new());
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(address), Some("t" | "T" | "w" | "W"), Some(name)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if let Ok(address) = u64::from_str_radix(address, 16)
                && address >= KERNEL_MAP
            {
                functions.entry(address).or_insert_with(|| name.to_owned());
                addresses.insert(name.to_owned(), address);
            }
        }
        Self { functions, addresses }
    }

    /// The address of a symbol.
    pub fn address(&self, name: &str) -> Result<u64> {
        self.addresses.get(name).copied().with_context(|| format!("The kernel has no symbol {name}"))
    }

    /// The function that an address lies in.
    pub fn name(&self, address: u64) -> &str {
        let low = address.saturating_add(KERNEL_MAP);
        let address = if self.is_in_image(low) { low } else { address };
        if address < KERNEL_MAP {
            return "(user mode)";
        }
        let before = self.functions.range(..=address).next_back();
        before.map_or("(unknown)", |(_, name)| name.as_str())
    }

    fn is_in_image(&self, address: u64) -> bool {
        let ends = (self.functions.first_key_value(), self.functions.last_key_value());
        matches!(ends, (Some((first, _)), Some((last, _))) if (first..=last).contains(&&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\nffffffff81000000 T startup_64\n\
        ffffffff81000100 t memset\nffffffff81800000 D data\n";

    #[test]
    fn addresses_are_in_the_function_before_them_also_before_paging() {
        let symbols = Symbols::parse(MAP);
        assert_eq!(symbols.name(0xffff_ffff_8100_00ff), "_text");
        assert_eq!(symbols.name(0xffff_ffff_8100_0100), "memset");
        assert_eq!(symbols.name(0xffff_ffff_9000_0000), "memset");
        assert_eq!(symbols.name(0x100_0010), "_text");
        assert_eq!(symbols.name(0x40_0010), "(user mode)");
        assert_eq!(symbols.name(0x7fff_0000_0000), "(user mode)");
        assert_eq!(symbols.address("memset").unwrap(), 0xffff_ffff_8100_0100);
        assert_eq!(symbols.address("startup_64").unwrap(), 0xffff_ffff_8100_0000);
        assert!(symbols.address("data").is_err());
    }
}
