//! The kernel's command line: the one place where it is composed.

use std::fmt::Write;

use crate::arch::layout;
use crate::deprivileged;

/// Why there is no command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// It does not fit.
    #[error("The kernel's command line is {length} bytes long; the kernel reads {max}", max = layout::COMMAND_LINE_MAX)]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The extra words hold something that a command line can't.
    #[error("The extra words for the kernel's command line hold something that isn't printable ASCII")]
    NotPrintable,
}

/// What the command line depends on.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine<'a> {
    /// Whether the kernel's log goes to the serial port.
    pub console: bool,
    /// How many virtio-mmio slots there are, from slot 0.
    pub slots: usize,
    /// Whether the host's KVM is deprivileged.
    pub deprivileged: bool,
    /// More words; they come last, so that they win.
    pub extra: &'a str,
}

/// What every guest gets. A reset is the way out of a kernel that panics without our exit device; there is no timer against
/// which the TSC would have to be watched, and no device that could not reach all memory. When a guest touches memory that the
/// host has yet to read, KVM would have it run something else meanwhile; a guest from a template touches such memory all the
/// time, the host has it at hand, and the switch costs more than the wait. Free memory is reported in blocks of 4 MiB, the
/// largest that there are: while Linux reports, it takes up to 32 blocks from what can be allocated, of the smallest reported
/// size or of any larger one, but makes sure of room for as many of the smallest size only. With smaller blocks a small guest
/// would be out of memory for that moment; with these, one with less than 128 MiB free doesn't report. The initramfs is unpacked
/// to a ramfs, in pieces as large as its files, where a tmpfs takes each page by itself. RCU's grace periods are expedited: a
/// process that waits for one, at a mount or when it changes cgroups, would wait for two ticks of the clock.
const BASE: &str = "reboot=k panic=-1 tsc=reliable swiotlb=noforce no-kvmapf rootfstype=ramfs rcupdate.rcu_expedited=1 \
    page_reporting.page_reporting_order=10";

impl CommandLine<'_> {
    /// Composes the words.
    ///
    /// # Errors
    /// When they are too many, or the extra ones are not words.
    pub fn compose(&self) -> Result<String, CommandLineError> {
        if !self.extra.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(CommandLineError::NotPrintable);
        }
        let mut line = String::from(BASE);
        line.push_str(if self.console { " console=ttyS0 8250.nr_uarts=1" } else { " quiet 8250.nr_uarts=0" });
        for (address, gsi) in (0..self.slots).map_while(layout::slot) {
            let size = layout::SLOT_SIZE >> 10;
            // Writing to a string does not fail.
            let _ = write!(line, " virtio_mmio.device={size}K@{address:#x}:{gsi}");
        }
        let remedies = if self.deprivileged { deprivileged::command_line() } else { "" };
        for words in [remedies, self.extra].into_iter().filter(|words| !words.is_empty()) {
            line.push(' ');
            line.push_str(words);
        }
        if line.len() > layout::COMMAND_LINE_MAX {
            return Err(CommandLineError::TooLong { length: line.len() });
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compose(console: bool, slots: usize, deprivileged: bool, extra: &str) -> Result<String, CommandLineError> {
        CommandLine { console, slots, deprivileged, extra }.compose()
    }

    #[test]
    fn devices_are_announced_at_their_addresses() {
        let line = compose(false, 2, false, "").unwrap();
        assert!(line.ends_with(" virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6"), "{line}");
        assert!(line.contains(" quiet "), "{line}");
    }

    #[test]
    fn the_remedies_are_there_on_deprivileged_hosts_only() {
        let remedies = deprivileged::command_line();
        assert!(compose(true, 0, true, "").unwrap().contains(remedies));
        assert!(!compose(true, 0, false, "").unwrap().contains(remedies));
    }

    #[test]
    fn extra_words_come_last() {
        let line = compose(true, 1, true, "loglevel=8 -- x").unwrap();
        assert!(line.ends_with(" loglevel=8 -- x"), "{line}");
        assert!(line.contains("console=ttyS0"), "{line}");
    }

    #[test]
    fn a_line_that_the_kernel_would_cut_is_refused() {
        let rest = layout::COMMAND_LINE_MAX - compose(false, 0, false, "").unwrap().len() - 1;
        assert_eq!(compose(false, 0, false, &"x".repeat(rest)).unwrap().len(), layout::COMMAND_LINE_MAX);
        let error = CommandLineError::TooLong { length: layout::COMMAND_LINE_MAX + 1 };
        assert_eq!(compose(false, 0, false, &"x".repeat(rest + 1)), Err(error));
    }

    #[test]
    fn nothing_can_be_smuggled_in_with_the_extra_words() {
        for extra in ["a\0b", "a\nb", "\u{e4}", "\u{7f}"] {
            assert_eq!(compose(false, 0, false, extra), Err(CommandLineError::NotPrintable));
        }
    }
}
