//! How messages become bytes: a `u32` length in little-endian order, then that many bytes of postcard.
//!
//! Invariant: a peer can make this side hold at most [`MAX_FRAME`] bytes of an unfinished frame.

use std::io::{self, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest body of a frame, in bytes. Room for the 2 MiB that Linux allows an `execve`, and the rest of a task.
pub const MAX_FRAME: usize = 4 << 20;

/// The bytes of a frame's header.
const HEADER: usize = 4;

/// Why a frame could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The body is longer than [`MAX_FRAME`].
    #[error("A control message of {length} bytes is longer than the {MAX_FRAME} bytes that are allowed")]
    TooLong {
        /// The announced length of the body.
        length: usize,
    },
    /// The body is not the message that was expected.
    #[error("A control message can't be decoded")]
    Decode(#[source] postcard::Error),
    /// The message cannot be encoded.
    #[error("A control message can't be encoded")]
    Encode(#[source] postcard::Error),
    /// The connection failed.
    #[error("A control message can't be written")]
    Write(#[source] io::Error),
}

/// Encodes `message` as one frame.
///
/// # Errors
/// [`FrameError::TooLong`] when the peer would refuse it.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let body = postcard::to_stdvec(message).map_err(FrameError::Encode)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME);
    let length = length.ok_or(FrameError::TooLong { length: body.len() })?;
    let mut frame = Vec::with_capacity(HEADER.saturating_add(body.len()));
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Writes `message` as one frame to a blocking `stream`.
///
/// # Errors
/// As [`encode`], and those of the stream.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?).map_err(FrameError::Write)
}

/// Collects received bytes and gives out the messages that are whole.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Adds bytes as they arrived, cut anywhere. Call [`Self::next`] until it gives `None` before adding more, so
    /// that an oversized frame is refused before it is held.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` when its bytes have not all arrived.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] or [`FrameError::Decode`]; the stream cannot be used after that.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not report errors by message type")]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(FrameError::TooLong { length });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (message, trailing) = postcard::take_from_bytes(body).map_err(FrameError::Decode)?;
        if !trailing.is_empty() {
            return Err(FrameError::Decode(postcard::Error::SerdeDeCustom));
        }
        self.buffer.drain(..HEADER.saturating_add(length));
        Ok(Some(message))
    }

    /// Whether bytes of an unfinished frame are held: the peer ended in the middle of a message.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{AgentMessage, HostMessage};
    use crate::spec::{
        Compression, EtcFile, ImageDevice, Layer, Mount, Root, TaskSpec, TmpfsMount, UnpackLimits, UnpackSpec,
        WindowSize,
    };

    fn unpack() -> HostMessage {
        let layer = Layer {
            offset: 4096,
            length: 17,
            compression: Compression::Zstd,
            digest: None,
            diff_id: format!("sha256:{}", "0".repeat(64)),
        };
        let limits = UnpackLimits { entries: 1, bytes: u64::MAX, image_bytes: 1 << 40 };
        HostMessage::Unpack(Box::new(UnpackSpec { layers: vec![layer], limits }))
    }

    fn task() -> HostMessage {
        let image = ImageDevice { path: crate::IMAGE_PMEM.into(), dax: true };
        let mut spec = TaskSpec {
            root: Root { image, scratch: Some("/dev/vda".into()), read_only: true },
            hostname: "task".into(),
            files: vec![EtcFile { path: b"/etc/hosts".to_vec(), content: b"\xff\n".to_vec(), mode: 0o644 }],
            mounts: vec![
                Mount::Tmpfs(TmpfsMount { path: b"/tmp".to_vec(), size: Some(1), ..TmpfsMount::default() }),
                Mount::Volume { path: b"/\xfe".to_vec() },
            ],
            ..TaskSpec::default()
        };
        spec.process.argv = vec![b"/bin/\xff".to_vec(), Vec::new()];
        HostMessage::Run(Box::new(spec))
    }

    #[test]
    fn messages_cut_at_every_byte_arrive_whole_and_in_order() {
        let sent =
            [unpack(), task(), HostMessage::Signal(15), HostMessage::Resize(WindowSize { rows: 24, columns: 80 })];
        let bytes: Vec<u8> = sent.iter().flat_map(|message| encode(message).unwrap()).collect();
        let mut decoder = Decoder::default();
        let mut got = Vec::new();
        for byte in bytes {
            decoder.extend(&[byte]);
            while let Some(message) = decoder.next::<HostMessage>().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, sent);
        assert!(!decoder.is_partial());
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_from_its_header_alone() {
        let mut decoder = Decoder::default();
        decoder.extend(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.next::<AgentMessage>(), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn bytes_behind_the_message_in_its_frame_are_refused() {
        let mut body = postcard::to_stdvec(&HostMessage::Signal(2)).unwrap();
        body.push(0);
        let mut decoder = Decoder::default();
        decoder.extend(&u32::try_from(body.len()).unwrap().to_le_bytes());
        decoder.extend(&body);
        assert!(matches!(decoder.next::<HostMessage>(), Err(FrameError::Decode(_))));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16)) {
            let mut decoder = Decoder::default();
            for chunk in chunks {
                decoder.extend(&chunk);
                while let Ok(Some(message)) = decoder.next::<AgentMessage>() {
                    prop_assert!(encode(&message).is_ok());
                }
            }
        }
    }
}
