//! The devices of a microVM.

pub mod clock;
pub mod exit;
pub mod i8042;
pub mod ready;
pub mod seed;
pub mod serial;
pub mod virtio;
