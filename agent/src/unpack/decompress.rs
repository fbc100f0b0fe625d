//! The layer's stored bytes as a tar stream: plain, gzip (RFC 1952) or Zstandard (RFC 8878).
//!
//! As strict as the tools of the field. gzip may have any number of members; anything behind the last one is an error, as
//! in Go's `compress/gzip` that umoci, podman and containerd use, except zero bytes, which some tools pad with and GNU gzip
//! ignores. Zstandard may have any number of frames and skippable frames; anything else behind a frame, a frame that
//! needs a dictionary, and a window over 128 MiB (the limit of the `zstd` command) or what memory allows are errors. Checksums inside the
//! streams are verified. A blob without any member or frame is an error.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use protocol::spec::Compression;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The largest Zstandard window, in bytes.
const ZSTD_WINDOW: u64 = 128 << 20;

/// The name of a compression format, for errors.
pub fn name(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "byte",
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    }
}

/// A reader of the uncompressed bytes of `source`. `zstd_window` is the most memory that a stream may ask for.
pub fn decoder<'a, R: BufRead + 'a>(compression: Compression, source: R, zstd_window: u64) -> Box<dyn Read + 'a> {
    match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(Gzip { state: GzipState::Between(source), members: 0 }),
        Compression::Zstd => {
            let mut decoder = FrameDecoder::new();
            decoder.set_max_window_size(zstd_window.min(ZSTD_WINDOW));
            Box::new(Zstd { source, decoder, state: ZstdState::Between, frames: 0 })
        }
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends early")
}

struct Gzip<R> {
    state: GzipState<R>,
    members: u64,
}

enum GzipState<R> {
    Between(R),
    Member(Box<GzDecoder<R>>),
    /// At the end, or after an error: nothing more comes.
    Ended,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            self.state = match std::mem::replace(&mut self.state, GzipState::Ended) {
                GzipState::Ended => return Ok(0),
                GzipState::Between(mut source) => {
                    if source.fill_buf()?.is_empty() {
                        return if self.members == 0 { Err(truncated()) } else { Ok(0) };
                    }
                    if self.members > 0 && source.fill_buf()?.first() == Some(&0) {
                        return only_zeros(source);
                    }
                    self.members = self.members.saturating_add(1);
                    GzipState::Member(Box::new(GzDecoder::new(source)))
                }
                GzipState::Member(mut member) => match member.read(buffer) {
                    Ok(0) => GzipState::Between(member.into_inner()),
                    Ok(count) => {
                        self.state = GzipState::Member(member);
                        return Ok(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(truncated()),
                    Err(error) => return Err(error),
                },
            };
        }
    }
}

/// Reads to the end and refuses anything but padding.
fn only_zeros(mut source: impl BufRead) -> io::Result<usize> {
    loop {
        let bytes = source.fill_buf()?;
        if bytes.is_empty() {
            return Ok(0);
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(invalid("there is something else behind it"));
        }
        let count = bytes.len();
        source.consume(count);
    }
}

struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    state: ZstdState,
    frames: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ZstdState {
    Between,
    Frame,
    Ended,
}

impl<R: BufRead> Zstd<R> {
    /// Reads the header of the next frame and says whether there was one.
    fn start_frame(&mut self) -> io::Result<bool> {
        if self.source.fill_buf()?.is_empty() {
            return if self.frames == 0 { Err(truncated()) } else { Ok(false) };
        }
        self.frames = self.frames.saturating_add(1);
        match self.decoder.reset(&mut self.source) {
            Ok(()) => self.state = ZstdState::Frame,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let skipped = io::copy(&mut (&mut self.source).take(u64::from(length)), &mut io::sink())?;
                if skipped < u64::from(length) {
                    return Err(truncated());
                }
            }
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
        Ok(true)
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.state = ZstdState::Between;
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(stored), Some(calculated)) if stored != calculated => Err(invalid("a frame's checksum is wrong")),
            _ => Ok(()),
        }
    }

    fn advance(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.state == ZstdState::Between && !self.start_frame()? {
                return Ok(0);
            }
            if self.state != ZstdState::Frame {
                continue;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                self.end_frame()?;
                continue;
            }
            let decoded = self.decoder.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBytes(buffer.len()));
            decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.state == ZstdState::Ended {
            return Ok(0);
        }
        let result = self.advance(buffer);
        if !matches!(result, Ok(count) if count > 0) {
            self.state = ZstdState::Ended;
        }
        result
    }
}
