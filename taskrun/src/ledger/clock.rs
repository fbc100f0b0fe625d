//! When something happened: on the clock that bills, and on the one that people read.
//!
//! Durations are taken from `CLOCK_BOOTTIME` (clock_gettime(2)), which nobody can set and which goes on while the host
//! is suspended. It starts anew with each boot, so a reading belongs to its boot's id (`/proc/sys/kernel/random/boot_id`,
//! random(4)). The wall clock beside it says when that was; it counts only where two readings are of different boots.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;
use std::sync::OnceLock;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Where the kernel tells the id of the boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Nanoseconds in a second and in a millisecond.
pub(super) const NS_PER_SECOND: u64 = 1_000_000_000;
const NS_PER_MILLISECOND: u64 = 1_000_000;

/// The last millisecond that the ledger can hold: the year 9999's.
const LAST_MILLISECOND: i64 = 253_402_207_199_999;

/// Which boot of a host: a random number that the kernel makes once per boot. Written as a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId(u128);

impl BootId {
    /// This boot's.
    ///
    /// # Errors
    /// Those of `/proc`, and `InvalidData` when there is no UUID.
    pub fn current() -> io::Result<Self> {
        static CURRENT: OnceLock<BootId> = OnceLock::new();
        if let Some(known) = CURRENT.get() {
            return Ok(*known);
        }
        let read: Self = fs::read_to_string(BOOT_ID)?
            .trim()
            .parse()
            .map_err(|NotABootId| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(*CURRENT.get_or_init(|| read))
    }

    /// As bytes, the first digits first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From the bytes of [`Self::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

/// A text that is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The id of a boot is a UUID")]
pub struct NotABootId;

impl FromStr for BootId {
    type Err = NotABootId;

    fn from_str(text: &str) -> Result<Self, NotABootId> {
        let lengths = text.split('-').map(str::len);
        let digits: String = text.split('-').collect();
        let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !lengths.eq([8, 4, 4, 4, 12]) || !hexadecimal {
            return Err(NotABootId);
        }
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_| NotABootId)
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |shift: u32, digits: u32| self.0 >> shift & ((1_u128 << (4 * digits)) - 1);
        write!(f, "{:08x}-{:04x}-", part(96, 8), part(80, 4))?;
        write!(f, "{:04x}-{:04x}-{:012x}", part(64, 4), part(48, 4), part(0, 12))
    }
}

/// A reading of the clock that bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootTime {
    /// The boot that it belongs to.
    pub boot_id: BootId,
    /// Nanoseconds since then.
    pub ns: u64,
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What the wall clock showed, in whole milliseconds.
    pub wall: Timestamp,
    /// What the clock that bills showed; `None` in rows of a taskrun that did not read it.
    pub boot: Option<BootTime>,
}

impl Moment {
    /// Now.
    ///
    /// # Errors
    /// Those of the clock and of `/proc`.
    pub fn now() -> io::Result<Self> {
        Self::now_in(BootId::current()?)
    }

    /// Now, where the boot's id is known.
    ///
    /// # Errors
    /// Those of the clock.
    pub fn now_in(boot_id: BootId) -> io::Result<Self> {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let ns = seconds.saturating_mul(NS_PER_SECOND).saturating_add(u64::try_from(time.tv_nsec()).unwrap_or(0));
        Ok(Self { wall: wall(), boot: Some(BootTime { boot_id, ns }) })
    }

    /// Nanoseconds from here to `end`: exact within a boot, by the wall clock otherwise. An end before the start is 0.
    #[must_use]
    pub fn until(&self, end: &Self) -> u64 {
        match (self.boot, end.boot) {
            (Some(start), Some(end)) if start.boot_id == end.boot_id => end.ns.saturating_sub(start.ns),
            _ => {
                let milliseconds = end.wall.as_millisecond().saturating_sub(self.wall.as_millisecond());
                u64::try_from(milliseconds).unwrap_or(0).saturating_mul(NS_PER_MILLISECOND)
            }
        }
    }

    /// The later of two.
    #[must_use]
    pub fn latest(self, other: Self) -> Self {
        if self.until(&other) > 0 { other } else { self }
    }
}

/// What the wall clock shows, in whole milliseconds.
#[must_use]
pub fn wall() -> Timestamp {
    timestamp(Timestamp::now().as_millisecond())
}

/// A time in milliseconds since 1970 UTC, moved to what the ledger can hold: a host's clock may be anywhere.
pub(super) fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds.clamp(0, LAST_MILLISECOND)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(milliseconds: i64, boot: u128, ns: u64) -> Moment {
        Moment { wall: timestamp(milliseconds), boot: Some(BootTime { boot_id: BootId(boot), ns }) }
    }

    #[test]
    fn a_boot_has_one_id_and_a_clock_that_goes_on() {
        let boot_id = BootId::current().unwrap();
        assert_eq!(boot_id, BootId::current().unwrap());
        assert_eq!(boot_id.to_string(), fs::read_to_string(BOOT_ID).unwrap().trim());
        assert_eq!(BootId::from_bytes(boot_id.to_bytes()), boot_id);
        let (first, second) = (Moment::now().unwrap(), Moment::now().unwrap());
        assert!(second.boot.unwrap().ns > first.boot.unwrap().ns);
    }

    #[test]
    fn only_a_uuid_is_a_boots_id() {
        for text in [
            "",
            "5ebf29c52dcc4a8ea8c9ab3e30036f20",
            "5ebf29c5-2dcc-4a8e-a8c9-ab3e30036f2g",
            "+ebf29c5-2dcc-4a8e-a8c9-ab3e30036f20",
        ] {
            assert_eq!(text.parse::<BootId>(), Err(NotABootId), "{text}");
        }
    }

    #[test]
    fn within_a_boot_the_wall_clock_counts_for_nothing() {
        let start = moment(1_000_000, 1, 5);
        for wall in [0, 1_000_000, 9_000_000_000] {
            assert_eq!(start.until(&moment(wall, 1, 7_200_000_005)), 7_200_000_000);
            assert_eq!(start.latest(moment(wall, 1, 6)), moment(wall, 1, 6));
            assert_eq!(start.latest(moment(wall, 1, 4)), start);
        }
        assert_eq!(start.until(&moment(9, 1, 4)), 0);
    }

    #[test]
    fn across_boots_there_is_only_the_wall_clock() {
        let start = moment(1_000, 1, 50);
        assert_eq!(start.until(&moment(1_500, 2, 3)), 500_000_000);
        assert_eq!(start.until(&moment(900, 2, 99)), 0);
        assert_eq!(start.until(&Moment { wall: timestamp(1_001), boot: None }), 1_000_000);
    }

    #[test]
    fn a_clock_that_is_far_off_is_held() {
        assert_eq!(timestamp(-5).as_millisecond(), 0);
        assert_eq!(timestamp(i64::MAX).as_millisecond(), LAST_MILLISECOND);
    }
}
