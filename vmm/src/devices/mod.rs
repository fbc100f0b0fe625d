//! The devices of a microVM.

pub mod exit;
pub mod i8042;
pub mod serial;
pub mod virtio;
