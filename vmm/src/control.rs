//! The control socket between the runtime and its VMM: `AF_UNIX`, `SOCK_SEQPACKET`, the VMM's standard input.
//!
//! One packet is one JSON message. The runtime's first is the [`VmConfig`](crate::config::VmConfig) with the descriptors;
//! after that it has only [`Request`]s, and the VMM speaks. When the runtime is gone the VMM sees end of file and ends at once.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockType, UnixAddr, getsockopt, recvmsg, sendmsg, sockopt,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::VmConfig;
use crate::end::EndReason;

/// The most descriptors that one message carries (the kernel's `SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

/// The longest message, in bytes. Below the kernel's default for a socket's buffer, so that no message waits for room.
pub const MAX_MESSAGE: usize = 128 << 10;

/// What the runtime says to a VMM whose machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// From now on the vCPUs hold themselves to the share in the description.
    Pace,
}

/// What a VMM says to the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmmEvent {
    /// The machine is built; the guest's first instruction is next.
    Running,
    /// The guest has read all the randomness that it is offered ([`crate::devices::seed`]), for the first time.
    Seeded,
    /// The machine has ended; the last message.
    Ended(EndReason),
}

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket is not one that keeps messages apart.
    #[error("The control socket isn't a socket of type SOCK_SEQPACKET")]
    NotSeqpacket,
    /// Too many descriptors.
    #[error(
        "A microVM is given at most {MAX_DESCRIPTORS} descriptors, not {0}: use fewer layer files or an image archive"
    )]
    TooManyDescriptors(usize),
    /// The message is too long.
    #[error("A control message of {0} bytes is longer than the {MAX_MESSAGE} bytes that are allowed")]
    TooLong(usize),
    /// The other side is gone.
    #[error("The other side of the control socket is gone")]
    Closed,
    /// A message can't be encoded.
    #[error("A control message can't be encoded")]
    Encode(#[source] serde_json::Error),
    /// A message isn't what was expected.
    #[error("A control message can't be decoded")]
    Decode(#[source] serde_json::Error),
    /// The socket failed.
    #[error("The control socket failed")]
    Socket(#[from] Errno),
}

/// Checks that `socket` is what its other side would have made it.
///
/// # Errors
/// [`ControlError::NotSeqpacket`].
pub fn check(socket: BorrowedFd<'_>) -> Result<(), ControlError> {
    match getsockopt(&socket, sockopt::SockType) {
        Ok(SockType::SeqPacket) => Ok(()),
        _ => Err(ControlError::NotSeqpacket),
    }
}

/// Sends the description of a microVM and the descriptors that it refers to.
///
/// # Errors
/// When there is too much of either, or the VMM is gone.
pub fn send_config(
    socket: BorrowedFd<'_>,
    config: &VmConfig,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), ControlError> {
    send(socket, config, descriptors)
}

/// Receives the description of a microVM and the descriptors that it refers to. It is not yet validated.
///
/// # Errors
/// [`ControlError::Closed`] when the runtime is gone, and those of a message that isn't one.
pub fn receive_config(socket: BorrowedFd<'_>) -> Result<(VmConfig, Vec<OwnedFd>), ControlError> {
    receive(socket)?.ok_or(ControlError::Closed)
}

/// Sends a request to a VMM.
///
/// # Errors
/// When the VMM is gone.
pub fn send_request(socket: BorrowedFd<'_>, request: Request) -> Result<(), ControlError> {
    send(socket, &request, &[])
}

/// Receives the runtime's next request; `None` when the runtime is gone.
///
/// # Errors
/// Those of the socket, and of a message that isn't a request.
pub fn receive_request(socket: BorrowedFd<'_>) -> Result<Option<Request>, ControlError> {
    Ok(receive(socket)?.map(|(request, _)| request))
}

/// Sends an event to the runtime.
///
/// # Errors
/// When the runtime is gone.
pub fn send_event(socket: BorrowedFd<'_>, event: &VmmEvent) -> Result<(), ControlError> {
    send(socket, event, &[])
}

/// Receives the VMM's next event; `None` when the VMM is gone.
///
/// # Errors
/// Those of the socket, and of a message that isn't an event.
pub fn receive_event(socket: BorrowedFd<'_>) -> Result<Option<VmmEvent>, ControlError> {
    Ok(receive(socket)?.map(|(event, _)| event))
}

fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(ControlError::TooManyDescriptors(descriptors.len()));
    }
    let json = serde_json::to_vec(message).map_err(ControlError::Encode)?;
    if json.len() > MAX_MESSAGE {
        return Err(ControlError::TooLong(json.len()));
    }
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[] } else { rights.as_slice() };
    loop {
        let slices = [IoSlice::new(&json)];
        match sendmsg::<UnixAddr>(socket.as_raw_fd(), &slices, rights, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(ControlError::Closed),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message and its descriptors; `None` at end of file.
fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> Result<Option<(T, Vec<OwnedFd>)>, ControlError> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let Some((length, descriptors)) = receive_packet(socket, &mut buffer)? else { return Ok(None) };
    let json = buffer.get(..length).ok_or(ControlError::TooLong(length))?;
    Ok(Some((serde_json::from_slice(json).map_err(ControlError::Decode)?, descriptors)))
}

#[expect(unsafe_code, reason = "received descriptors are plain numbers")]
fn receive_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>, ControlError> {
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_TRUNC;
    let packet = loop {
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Ok(packet) => break packet,
            Err(Errno::EINTR) => {}
            // The other side closed the socket with a message unread.
            Err(Errno::ECONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut descriptors = Vec::new();
    for message in packet.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for this process, and nothing else knows of them.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    // With MSG_TRUNC the length is the packet's own, even where it is longer than the buffer.
    Ok((packet.bytes > 0).then_some((packet.bytes, descriptors)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write, pipe};
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, socketpair};

    use super::*;
    use crate::config::{Boot, FdIndex, Start};

    fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    fn config(extra: usize) -> VmConfig {
        VmConfig {
            vcpus: 1,
            cpu_units: None,
            memory_mib: 64,
            kvm: FdIndex(0),
            start: Start::Boot(Boot {
                memory: FdIndex(1),
                kernel: FdIndex(2),
                initramfs: FdIndex(3),
                extra_command_line: "x".repeat(extra),
                save: None,
            }),
            console: None,
            blocks: vec![],
            pmems: vec![],
            channels: vec![],
            written: vec![],
        }
    }

    #[test]
    fn descriptors_arrive_with_the_description_and_in_order() {
        let (runtime, vmm) = pair(SockType::SeqPacket);
        let (first_out, mut first_in) = pipe().unwrap();
        let (second_out, mut second_in) = pipe().unwrap();
        send_config(runtime.as_fd(), &config(5), &[second_out.as_fd(), first_out.as_fd()]).unwrap();
        first_in.write_all(b"first").unwrap();
        second_in.write_all(b"second").unwrap();
        drop((first_in, first_out, second_in, second_out));
        let (got, descriptors) = receive_config(vmm.as_fd()).unwrap();
        assert_eq!(got, config(5));
        let contents = descriptors.into_iter().map(|fd| {
            let mut content = String::new();
            File::from(fd).read_to_string(&mut content).unwrap();
            content
        });
        assert_eq!(contents.collect::<Vec<_>>(), ["second", "first"]);
    }

    #[test]
    fn the_most_descriptors_and_the_longest_message_arrive() {
        let (runtime, vmm) = pair(SockType::SeqPacket);
        let null = File::open("/dev/null").unwrap();
        let longest = MAX_MESSAGE - serde_json::to_vec(&config(0)).unwrap().len();
        send_config(runtime.as_fd(), &config(longest), &[null.as_fd(); MAX_DESCRIPTORS]).unwrap();
        assert_eq!(receive_config(vmm.as_fd()).unwrap().1.len(), MAX_DESCRIPTORS);

        let more = send_config(runtime.as_fd(), &config(0), &[null.as_fd(); MAX_DESCRIPTORS + 1]);
        assert!(matches!(more, Err(ControlError::TooManyDescriptors(254))));
        let longer = send_config(runtime.as_fd(), &config(longest + 1), &[]);
        assert!(matches!(longer, Err(ControlError::TooLong(_))));
    }

    #[test]
    fn events_arrive_one_by_one_until_the_vmm_is_gone() {
        let (runtime, vmm) = pair(SockType::SeqPacket);
        let events = [VmmEvent::Running, VmmEvent::Seeded, VmmEvent::Ended(EndReason::Panic { message: "Oh".into() })];
        for event in &events {
            send_event(vmm.as_fd(), event).unwrap();
        }
        drop(vmm);
        let received = std::iter::from_fn(|| receive_event(runtime.as_fd()).unwrap());
        assert_eq!(received.collect::<Vec<_>>(), events);
    }

    #[test]
    fn a_packet_that_is_no_message_is_refused() {
        let (runtime, vmm) = pair(SockType::SeqPacket);
        for packet in [&b"no json"[..], &[b'x'; MAX_MESSAGE + 1]] {
            nix::unistd::write(&runtime, packet).unwrap();
            assert!(receive_config(vmm.as_fd()).is_err());
        }
        drop(runtime);
        assert!(matches!(receive_config(vmm.as_fd()), Err(ControlError::Closed)));
        assert!(matches!(send_event(vmm.as_fd(), &VmmEvent::Running), Err(ControlError::Closed)));
    }

    #[test]
    fn only_a_seqpacket_socket_is_a_control_socket() {
        assert!(check(pair(SockType::SeqPacket).0.as_fd()).is_ok());
        assert!(check(pair(SockType::Stream).0.as_fd()).is_err());
        assert!(check(File::open("/dev/null").unwrap().as_fd()).is_err());
    }
}
