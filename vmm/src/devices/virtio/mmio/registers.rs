//! The map of the registers (virtio 1.2, section 4.2.2), as data.

use virtio_bindings::virtio_mmio as abi;

/// Where the device's configuration space begins; it goes on to the end of the window.
pub(super) const CONFIG_SPACE: u64 = abi::VIRTIO_MMIO_CONFIG as u64;

/// A half of a 64-bit address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Low,
    High,
}

impl Half {
    /// `value` as the (low, high) half of an address of which the other half stays.
    pub(super) const fn place(self, value: u32) -> (Option<u32>, Option<u32>) {
        match self {
            Self::Low => (Some(value), None),
            Self::High => (None, Some(value)),
        }
    }
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Magic,
    Version,
    DeviceId,
    VendorId,
    DeviceFeatures,
    DeviceFeaturesSel,
    DriverFeatures,
    DriverFeaturesSel,
    QueueSel,
    QueueNumMax,
    QueueNum,
    QueueReady,
    QueueNotify,
    InterruptStatus,
    InterruptAck,
    Status,
    QueueDesc(Half),
    QueueDriver(Half),
    QueueDevice(Half),
    /// Length or base of the selected shared memory region.
    SharedMemory,
    ConfigGeneration,
}

impl Register {
    /// The register at an offset below [`CONFIG_SPACE`]; none between registers and at those of version 1.
    pub(super) fn at(offset: u64) -> Option<Self> {
        Some(match u32::try_from(offset).ok()? {
            abi::VIRTIO_MMIO_MAGIC_VALUE => Self::Magic,
            abi::VIRTIO_MMIO_VERSION => Self::Version,
            abi::VIRTIO_MMIO_DEVICE_ID => Self::DeviceId,
            abi::VIRTIO_MMIO_VENDOR_ID => Self::VendorId,
            abi::VIRTIO_MMIO_DEVICE_FEATURES => Self::DeviceFeatures,
            abi::VIRTIO_MMIO_DEVICE_FEATURES_SEL => Self::DeviceFeaturesSel,
            abi::VIRTIO_MMIO_DRIVER_FEATURES => Self::DriverFeatures,
            abi::VIRTIO_MMIO_DRIVER_FEATURES_SEL => Self::DriverFeaturesSel,
            abi::VIRTIO_MMIO_QUEUE_SEL => Self::QueueSel,
            abi::VIRTIO_MMIO_QUEUE_NUM_MAX => Self::QueueNumMax,
            abi::VIRTIO_MMIO_QUEUE_NUM => Self::QueueNum,
            abi::VIRTIO_MMIO_QUEUE_READY => Self::QueueReady,
            abi::VIRTIO_MMIO_QUEUE_NOTIFY => Self::QueueNotify,
            abi::VIRTIO_MMIO_INTERRUPT_STATUS => Self::InterruptStatus,
            abi::VIRTIO_MMIO_INTERRUPT_ACK => Self::InterruptAck,
            abi::VIRTIO_MMIO_STATUS => Self::Status,
            abi::VIRTIO_MMIO_QUEUE_DESC_LOW => Self::QueueDesc(Half::Low),
            abi::VIRTIO_MMIO_QUEUE_DESC_HIGH => Self::QueueDesc(Half::High),
            abi::VIRTIO_MMIO_QUEUE_AVAIL_LOW => Self::QueueDriver(Half::Low),
            abi::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => Self::QueueDriver(Half::High),
            abi::VIRTIO_MMIO_QUEUE_USED_LOW => Self::QueueDevice(Half::Low),
            abi::VIRTIO_MMIO_QUEUE_USED_HIGH => Self::QueueDevice(Half::High),
            abi::VIRTIO_MMIO_SHM_LEN_LOW
            | abi::VIRTIO_MMIO_SHM_LEN_HIGH
            | abi::VIRTIO_MMIO_SHM_BASE_LOW
            | abi::VIRTIO_MMIO_SHM_BASE_HIGH => Self::SharedMemory,
            abi::VIRTIO_MMIO_CONFIG_GENERATION => Self::ConfigGeneration,
            _ => return None,
        })
    }
}
