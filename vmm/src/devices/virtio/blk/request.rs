//! A request of the driver (virtio 1.2, section 5.2.6): a 16-byte header, data, and a status byte at the very end,
//! wherever the driver's buffers begin and end.

use virtio_bindings::virtio_blk as abi;
use vm_memory::VolatileSlice;

use crate::devices::virtio::iovec;
use crate::devices::virtio::queue::Chain;

/// The unit of positions and lengths, in bytes.
pub(super) const SECTOR: u64 = 512;
/// The bytes of the header: type, reserved, sector.
const HEADER: usize = 16;
/// The bytes of a range that a request names: sector, number of sectors, flags.
const RANGE: usize = 16;
/// The most ranges in a request, as the configuration space says.
pub(super) const MAX_RANGES: usize = 64;

/// A part of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) position: u64,
    pub(super) length: u64,
    /// The flags that came with it.
    pub(super) flags: u32,
}

/// The parts of the disk that a request names, or `None` when they are cut off, too many or behind 2^64.
pub(super) type Ranges = Option<Vec<Range>>;

/// What a request asks for.
#[derive(Debug)]
pub(super) enum Kind<'m> {
    /// Read from this position, in bytes.
    In { position: u64, data: Vec<VolatileSlice<'m>> },
    /// Write to this position, in bytes.
    Out { position: u64, data: Vec<VolatileSlice<'m>> },
    /// Make writes durable.
    Flush,
    /// Forget what is in these ranges.
    Discard { ranges: Ranges },
    /// Make these ranges read as zeros.
    WriteZeroes { ranges: Ranges },
    /// Tell the device's name.
    GetId { data: Vec<VolatileSlice<'m>> },
    /// Something that is not offered.
    Unsupported,
    /// Something that no device could do, such as a position behind 2^64.
    Impossible,
}

/// A request whose answer has a place.
#[derive(Debug)]
pub(super) struct Request<'m> {
    pub(super) kind: Kind<'m>,
    status: VolatileSlice<'m>,
    /// The length of the whole writable part.
    pub(super) writable: u32,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    IoError,
    Unsupported,
}

impl<'m> Request<'m> {
    /// The request in `chain`, or `None` when there is not even a place for the status.
    pub(super) fn parse(chain: &Chain<'m>) -> Option<Self> {
        let writable = iovec::length(&chain.writable);
        let data_length = writable.checked_sub(1)?;
        let status = *iovec::part(&chain.writable, data_length, 1).first()?;
        let mut header = [0; HEADER];
        let kind = if iovec::copy_out(&chain.readable, &mut header) == HEADER {
            kind(header, &chain.readable, iovec::part(&chain.writable, 0, data_length))
        } else {
            Kind::Impossible
        };
        Some(Self { kind, status, writable: u32::try_from(writable).ok()? })
    }

    /// Writes the answer.
    pub(super) fn finish(&self, status: Status) {
        let status = match status {
            Status::Ok => abi::VIRTIO_BLK_S_OK,
            Status::IoError => abi::VIRTIO_BLK_S_IOERR,
            Status::Unsupported => abi::VIRTIO_BLK_S_UNSUPP,
        };
        let [status, ..] = status.to_le_bytes();
        self.status.copy_from(&[status]);
    }
}

fn kind<'m>(header: [u8; HEADER], readable: &[VolatileSlice<'m>], writable: Vec<VolatileSlice<'m>>) -> Kind<'m> {
    let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let position = sector.checked_mul(SECTOR);
    match (u32::from_le_bytes([t0, t1, t2, t3]), position) {
        (abi::VIRTIO_BLK_T_IN, Some(position)) => Kind::In { position, data: writable },
        (abi::VIRTIO_BLK_T_OUT, Some(position)) => {
            Kind::Out { position, data: iovec::part(readable, HEADER, usize::MAX) }
        }
        (abi::VIRTIO_BLK_T_IN | abi::VIRTIO_BLK_T_OUT, None) => Kind::Impossible,
        (abi::VIRTIO_BLK_T_FLUSH, _) => Kind::Flush,
        (abi::VIRTIO_BLK_T_DISCARD, _) => Kind::Discard { ranges: ranges(readable) },
        (abi::VIRTIO_BLK_T_WRITE_ZEROES, _) => Kind::WriteZeroes { ranges: ranges(readable) },
        (abi::VIRTIO_BLK_T_GET_ID, _) => Kind::GetId { data: writable },
        _ => Kind::Unsupported,
    }
}

/// The ranges behind the header.
fn ranges(readable: &[VolatileSlice<'_>]) -> Ranges {
    let length = iovec::length(readable).checked_sub(HEADER)?;
    if length == 0 || !length.is_multiple_of(RANGE) || length.div_euclid(RANGE) > MAX_RANGES {
        return None;
    }
    let mut bytes = vec![0; length];
    iovec::copy_out(&iovec::part(readable, HEADER, length), &mut bytes);
    bytes.as_chunks().0.iter().map(range).collect()
}

fn range(bytes: &[u8; RANGE]) -> Option<Range> {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = *bytes;
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    Some(Range {
        position: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]).checked_mul(SECTOR)?,
        length: u64::from(sectors).checked_mul(SECTOR)?,
        flags: u32::from_le_bytes([f0, f1, f2, f3]),
    })
}
