//! The devices of a microVM.

pub mod virtio;
