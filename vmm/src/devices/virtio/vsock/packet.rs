//! The header of a packet (virtio 1.2, section 5.10.6).

/// The length of an encoded header, in bytes.
pub(super) const HEADER_SIZE: usize = 44;

/// The context id of the host.
pub(super) const HOST_CID: u64 = 2;

/// The type of stream sockets.
pub(super) const STREAM: u16 = 1;

/// In [`Op::Shutdown`]: the sender of the packet receives no more.
pub(super) const SHUT_RECEIVE: u32 = 1;
/// In [`Op::Shutdown`]: the sender of the packet sends no more.
pub(super) const SHUT_SEND: u32 = 2;
/// Both of the above.
pub(super) const SHUT_BOTH: u32 = SHUT_RECEIVE | SHUT_SEND;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
    /// None that the specification names.
    Unknown(u16),
}

impl Op {
    const fn from_raw(raw: u16) -> Self {
        match raw {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            other => Self::Unknown(other),
        }
    }

    const fn to_raw(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
            Self::Unknown(other) => other,
        }
    }
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// The bytes of data behind the header.
    pub(super) len: u32,
    pub(super) socket_type: u16,
    pub(super) op: Op,
    pub(super) flags: u32,
    /// The sender's buffer for this connection, in bytes.
    pub(super) buf_alloc: u32,
    /// The bytes that left that buffer so far, modulo 2^32.
    pub(super) fwd_cnt: u32,
}

impl Header {
    /// The header that `bytes` encode. Any bytes do.
    pub(super) fn decode(bytes: [u8; HEADER_SIZE]) -> Self {
        let mut bytes = Cursor(bytes.into_iter());
        Self {
            src_cid: u64::from_le_bytes(bytes.next()),
            dst_cid: u64::from_le_bytes(bytes.next()),
            src_port: u32::from_le_bytes(bytes.next()),
            dst_port: u32::from_le_bytes(bytes.next()),
            len: u32::from_le_bytes(bytes.next()),
            socket_type: u16::from_le_bytes(bytes.next()),
            op: Op::from_raw(u16::from_le_bytes(bytes.next())),
            flags: u32::from_le_bytes(bytes.next()),
            buf_alloc: u32::from_le_bytes(bytes.next()),
            fwd_cnt: u32::from_le_bytes(bytes.next()),
        }
    }

    /// The bytes of this header.
    pub(super) fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let fields = (self.src_cid.to_le_bytes().into_iter())
            .chain(self.dst_cid.to_le_bytes())
            .chain(self.src_port.to_le_bytes())
            .chain(self.dst_port.to_le_bytes())
            .chain(self.len.to_le_bytes())
            .chain(self.socket_type.to_le_bytes())
            .chain(self.op.to_raw().to_le_bytes())
            .chain(self.flags.to_le_bytes())
            .chain(self.buf_alloc.to_le_bytes())
            .chain(self.fwd_cnt.to_le_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The packet that tells the sender of this one that there is no such connection.
    pub(super) const fn refusal(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            socket_type: self.socket_type,
            op: Op::Reset,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }
}

/// Takes fields off the front.
struct Cursor(std::array::IntoIter<u8, HEADER_SIZE>);

impl Cursor {
    fn next<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.0.next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let mut bytes = [0; HEADER_SIZE];
        bytes[0] = 3;
        bytes[8] = 2;
        bytes[16..20].copy_from_slice(&0x0102_0304_u32.to_le_bytes());
        bytes[20] = 5;
        bytes[24] = 6;
        bytes[28] = 1;
        bytes[30] = 4;
        bytes[32] = 3;
        bytes[36] = 8;
        bytes[40] = 9;
        let header = Header {
            src_cid: 3,
            dst_cid: HOST_CID,
            src_port: 0x0102_0304,
            dst_port: 5,
            len: 6,
            socket_type: STREAM,
            op: Op::Shutdown,
            flags: SHUT_BOTH,
            buf_alloc: 8,
            fwd_cnt: 9,
        };
        assert_eq!(Header::decode(bytes), header);
        assert_eq!(header.encode(), bytes);
    }

    proptest! {
        #[test]
        fn any_bytes_survive(bytes in prop::array::uniform32(any::<u8>()), tail in prop::array::uniform12(any::<u8>())) {
            let mut all = [0; HEADER_SIZE];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&tail);
            prop_assert_eq!(Header::decode(all).encode(), all);
        }
    }
}
