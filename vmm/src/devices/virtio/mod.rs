//! Virtio over MMIO (virtio 1.2, section 4.2), and the devices behind it.
