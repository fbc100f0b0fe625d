//! The block device: its features, its configuration space and its queue.

use std::sync::Arc;

use virtio_bindings::virtio_blk as abi;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::VolatileSlice;

use super::extents::{Extent, Extents, LayoutError};
use super::request::{Kind, MAX_RANGES, Range, Ranges, Request, SECTOR, Status};
use crate::devices::virtio::interrupt::Interrupt;
use crate::devices::virtio::queue::{EVENT_IDX, INDIRECT_DESC, VirtQueue};
use crate::devices::virtio::{ActivationContext, DeviceError, Event, Progress, VirtioDevice, copy_config, iovec};
use crate::memory::GuestMemory;

/// The size of the queue, and so the longest chain.
const QUEUE_SIZE: u16 = 256;
/// The most data buffers of a request: the chain without header and status. Linux then makes requests of up to 1.25 MiB.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Requests served before other devices have their turn.
const BUDGET: usize = QUEUE_SIZE as usize;
/// A physical block is 2^3 logical blocks: 4096 bytes, as extents are aligned.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
/// The smallest request without a read-modify-write, in logical blocks.
const MIN_IO_SIZE: u16 = 1 << PHYSICAL_BLOCK_EXPONENT;
/// The most sectors of a range that a request discards or zeroes: 1 GiB, of which a file system makes a hole at once.
const MAX_RANGE_SECTORS: u32 = 1 << 21;
/// The bytes of the configuration space up to what tells of zeroes.
const CONFIG_SIZE: usize = 60;
const ID_SIZE: usize = abi::VIRTIO_BLK_ID_BYTES as usize;

/// A disk.
#[derive(Debug)]
pub struct Block {
    id: [u8; ID_SIZE],
    read_only: bool,
    extents: Extents,
    active: Option<Active>,
}

/// What the device has while it is active.
#[derive(Debug)]
struct Active {
    memory: GuestMemory,
    queue: VirtQueue,
    interrupt: Arc<Interrupt>,
}

impl Block {
    /// A disk that consists of `extents`. The guest sees the first 20 bytes of `id` as its serial number.
    ///
    /// # Errors
    /// When the extents do not fit into a disk.
    pub fn new(id: &str, read_only: bool, extents: Vec<Extent>) -> Result<Self, LayoutError> {
        let extents = Extents::new(id, extents)?;
        let mut bytes = [0; ID_SIZE];
        bytes.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
        Ok(Self { id: bytes, read_only, extents, active: None })
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        let mut config = [0; CONFIG_SIZE];
        let logical_block = u32::try_from(SECTOR).unwrap_or_default();
        let mut put = |at: usize, field: &[u8]| {
            config.iter_mut().skip(at).zip(field).for_each(|(to, from)| *to = *from);
        };
        put(0, &self.extents.size().wrapping_div(SECTOR).to_le_bytes());
        put(12, &MAX_SEGMENTS.to_le_bytes());
        put(20, &logical_block.to_le_bytes());
        put(24, &[PHYSICAL_BLOCK_EXPONENT, 0]);
        put(26, &MIN_IO_SIZE.to_le_bytes());
        if !self.read_only {
            let ranges = u32::try_from(MAX_RANGES).unwrap_or_default();
            let alignment = u32::from(MIN_IO_SIZE);
            // Discards, the alignment of what they free, and zeroes, which may free too.
            let fields = [MAX_RANGE_SECTORS, ranges, alignment, MAX_RANGE_SECTORS, ranges, 1].map(u32::to_le_bytes);
            put(36, fields.as_flattened());
        }
        config
    }

    /// Serves the queue, then tells the guest once.
    fn serve(&mut self) -> Result<Progress, DeviceError> {
        let Some(mut active) = self.active.take() else { return Ok(Progress::Done) };
        let result = self.serve_queue(&mut active);
        self.active = Some(active);
        result
    }

    fn serve_queue(&self, Active { memory, queue, interrupt }: &mut Active) -> Result<Progress, DeviceError> {
        queue.silence(memory)?;
        let mut progress = Progress::More;
        for _ in 0..BUDGET {
            let Some(chain) = queue.pop(memory)? else {
                if queue.listen(memory)? {
                    continue;
                }
                progress = Progress::Done;
                break;
            };
            let written = match Request::parse(&chain) {
                Some(request) => {
                    request.finish(self.execute(&request.kind));
                    request.writable
                }
                None => 0,
            };
            queue.push(memory, chain.head, written)?;
        }
        if queue.needs_interrupt(memory)? {
            interrupt.used()?;
        }
        Ok(progress)
    }

    fn execute(&self, kind: &Kind<'_>) -> Status {
        let done = match kind {
            Kind::In { position, data } if self.is_inside(*position, data) => self.extents.read(*position, data),
            Kind::Out { position, data } if !self.read_only && self.is_inside(*position, data) => {
                self.extents.write(*position, data)
            }
            Kind::In { .. } | Kind::Out { .. } | Kind::Impossible => return Status::IoError,
            Kind::Flush if self.read_only => Ok(()),
            Kind::Flush => self.extents.flush(),
            Kind::Discard { ranges } | Kind::WriteZeroes { ranges } if !self.read_only => {
                let known = match kind {
                    Kind::WriteZeroes { .. } => abi::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
                    _ => 0,
                };
                return self.clear(ranges, known);
            }
            Kind::Discard { .. } | Kind::WriteZeroes { .. } => return Status::Unsupported,
            Kind::GetId { data } => {
                iovec::copy_in(data, &self.id);
                Ok(())
            }
            Kind::Unsupported => return Status::Unsupported,
        };
        // What failed, the guest learns as an I/O error of its disk, as it would of a broken one.
        if done.is_ok() { Status::Ok } else { Status::IoError }
    }

    /// Makes ranges read as zeros and frees what they took. The space isn't promised to the guest in the first place, so
    /// both requests are the same. Of the flags only those that are `known` may be set.
    fn clear(&self, ranges: &Ranges, known: u32) -> Status {
        let Some(ranges) = ranges else { return Status::IoError };
        if ranges.iter().any(|range| range.flags & !known != 0) {
            return Status::Unsupported;
        }
        let fits = |range: &Range| {
            let end = range.position.checked_add(range.length);
            range.length <= u64::from(MAX_RANGE_SECTORS).saturating_mul(SECTOR)
                && end.is_some_and(|end| end <= self.extents.size())
        };
        if !ranges.iter().all(fits) {
            return Status::IoError;
        }
        match ranges.iter().try_for_each(|range| self.extents.clear(range.position, range.length)) {
            Ok(()) => Status::Ok,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Status::Unsupported,
            Err(_) => Status::IoError,
        }
    }

    /// Whether the request is made of whole sectors, all of them on the disk.
    fn is_inside(&self, position: u64, data: &[VolatileSlice<'_>]) -> bool {
        let length = u64::try_from(iovec::length(data)).ok();
        length.is_some_and(|length| {
            let end = position.checked_add(length);
            length.is_multiple_of(SECTOR) && end.is_some_and(|end| end <= self.extents.size())
        })
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let access = if self.read_only {
            1 << abi::VIRTIO_BLK_F_RO
        } else {
            1 << abi::VIRTIO_BLK_F_DISCARD | 1 << abi::VIRTIO_BLK_F_WRITE_ZEROES
        };
        let sizes = 1 << abi::VIRTIO_BLK_F_SEG_MAX | 1 << abi::VIRTIO_BLK_F_BLK_SIZE | 1 << abi::VIRTIO_BLK_F_TOPOLOGY;
        EVENT_IDX | INDIRECT_DESC | sizes | 1 << abi::VIRTIO_BLK_F_FLUSH | access
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config(), offset, data);
    }

    fn activate(&mut self, context: ActivationContext) {
        let ActivationContext { memory, queues, interrupt, features: _ } = context;
        let queue = queues.into_iter().next().map(VirtQueue::new);
        self.active = queue.map(|queue| Active { memory, queue, interrupt });
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn process(&mut self, event: Event) -> Result<Progress, DeviceError> {
        if event == Event::Drain {
            // What the guest did not wait for is lost with it, as on any machine that is switched off.
            self.active = None;
        }
        self.serve()
    }
}

#[cfg(test)]
mod tests;
