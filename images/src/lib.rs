//! OCI images on the host: what a reference names, which image of an index fits this machine, what its configuration
//! says, and where the bytes of its layers lie.
//!
//! Everything that is read here is hostile: directories, archives and documents are made by somebody else. Numbers are
//! bounded, documents are checked against the digest that names them before they are parsed, and layers are hashed
//! and never parsed: the host finds out where they are ([`LayerBlob`]) and a guest unpacks them. The crate knows
//! nothing of tasks or virtual machines, and it depends on no other crate of the workspace.
//!
//! ```text
//! Reference ─┬▶ Files (a directory, or the files in a tar archive, read in place)
//!            │    │ oci: oci-layout, index.json ──▶ manifest ──▶ config, layers
//!            │    │ docker-archive: manifest.json ──────────────▶ config, layers
//!            │    ▼
//!            │  Image {digest, config, layers} ──▶ RootfsKey ──▶ Store: the unpacked root file system
//!            │    ▲
//!            └▶ registry ──▶ Store: blobs by digest, names, locks
//! ```
//!
//! # Layout
//! - [`mod@reference`]: the text that names an image; [`name`]: docker's names for images, with their short forms.
//! - [`digest`]: content digests. [`document`]: the JSON documents of the OCI image specification, and their limits.
//! - `files`, `directory`, `archive`: named files in a directory or an archive; [`tar_index`]: what lies where in a
//!   tar archive.
//! - `layout`: the OCI image layout over such files; [`manifest`]: from an index to the one manifest that is meant;
//!   [`platform`]: which of several images fits. `docker_archive`: the format of `docker save`.
//! - [`registry`]: pulls images into the store. [`store`]: what was pulled and unpacked, on this machine, for all
//!   processes of a user; who holds what, and what can go.
//! - [`config`]: what an image says about its process. [`command`], [`mod@env`]: what becomes of that with the caller's
//!   own wishes, as docker does it.
//!
//! Bytes from a registry are hashed as they come; layers of a local layout or archive are hashed by
//! [`store::verify_layers`] when they are unpacked. What unpacks them, and where, is not this crate's affair.

mod archive;
pub mod command;
pub mod config;
pub mod digest;
mod directory;
mod docker_archive;
pub mod document;
pub mod env;
mod error;
mod files;
mod image;
mod layout;
pub mod manifest;
pub mod name;
pub mod platform;
pub mod reference;
pub mod registry;
pub mod store;
pub mod tar_index;
#[cfg(test)]
mod testing;

pub use config::ImageConfig;
pub use digest::Digest;
pub use error::ImageError;
pub use image::{Compression, Image, LayerBlob, MAX_LAYERS, open};
pub use reference::Reference;
