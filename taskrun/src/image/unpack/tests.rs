//! The watch against a fake agent and a fake VMM, each at the other end of a socket pair.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use images::Digest;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use protocol::frame;
use protocol::message::{FailureKind, UnpackProgress};

use super::*;

struct FakeVmm {
    events: OwnedFd,
    killed: bool,
}

impl Machine for FakeVmm {
    fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    fn kill(&mut self) {
        self.killed = true;
    }

    fn wait(&mut self) -> EndReason {
        EndReason::Killed { signal: 9 }
    }
}

fn hello() -> AgentMessage {
    AgentMessage::Hello { version: protocol::VERSION, kernel: "6.12".into() }
}

fn progress(read: u64) -> AgentMessage {
    AgentMessage::Progress(UnpackProgress { read, written: 0 })
}

fn report() -> UnpackReport {
    UnpackReport { image_size: 8192, entries: 3, diff_ids: vec![Digest::of(b"tar").to_string()] }
}

/// What comes of a guest that says this, reports that end and is gone; and the steps that were told.
fn watch(says: &[AgentMessage], end: Option<&EndReason>) -> (Result<UnpackReport, UnpackError>, Vec<Step>) {
    let (ours, mut agent) = UnixStream::pair().unwrap();
    let (events, vmm) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let mut steps = Vec::new();
    let mut on_step = |step| steps.push(step);
    let result = thread::scope(|scope| {
        scope.spawn(move || {
            for message in says {
                // The runtime may have gone away over the message before.
                let _ = frame::write(&mut agent, message);
            }
            if let Some(reason) = end {
                let json = serde_json::to_vec(&VmmEvent::Ended(reason.clone())).unwrap();
                let _ = send(vmm.as_raw_fd(), &json, MsgFlags::MSG_NOSIGNAL);
            }
            // The runtime may have ended the machine by now.
            let _ = agent.shutdown(std::net::Shutdown::Write);
            drop(vmm);
        });
        let mut machine = FakeVmm { events, killed: false };
        let result = Watch {
            machine: &mut machine,
            agent: AgentConnection::new(ours).unwrap(),
            job: Job::booting(HostMessage::Unpack(Box::default())),
            greeted: false,
            on_step: &mut on_step,
            voice: &Voice::stderr(),
            warnings: 0,
            result: None,
            end_reason: None,
            deadline: Instant::now().checked_add(SILENCE),
        }
        .run();
        assert!(machine.killed, "the machine is gone, whatever happened");
        result
    });
    (result, steps)
}

#[test]
fn a_report_ends_the_work() {
    let says = [hello(), progress(5), progress(9), AgentMessage::Unpacked(report())];
    let (result, steps) = watch(&says, Some(&EndReason::PowerOff));
    assert_eq!(result.unwrap(), report());
    assert_eq!(steps, [Step::AgentReady, Step::Read(5), Step::Read(9), Step::Reported]);
}

#[test]
fn a_refused_image_is_told_in_the_agents_words_made_harmless() {
    let failure = Failure { kind: FailureKind::Image, message: "Layer 1 is\u{1b} damaged".into() };
    let (result, _) = watch(&[hello(), AgentMessage::Failed(failure)], Some(&EndReason::PowerOff));
    let error = result.unwrap_err();
    assert!(matches!(&error, UnpackError::Failed(words) if words == "Layer 1 is\\u{1b} damaged"), "{error}");
}

#[test]
fn a_guest_that_ends_early_is_told_with_its_reason() {
    let (result, _) = watch(&[hello()], Some(&EndReason::Killed { signal: 9 }));
    assert!(matches!(result, Err(UnpackError::GuestEnded(_))), "{result:?}");
}

#[test]
fn an_agent_that_breaks_the_protocol_is_not_believed() {
    let other = AgentMessage::Hello { version: protocol::VERSION + 1, kernel: String::new() };
    let unpacked = || AgentMessage::Unpacked(report());
    for says in
        [vec![other], vec![hello(), hello()], vec![unpacked()], vec![progress(1)], vec![hello(), AgentMessage::Started]]
    {
        let (result, _) = watch(&says, None);
        assert!(matches!(result, Err(UnpackError::Protocol(_))), "{says:?}: {result:?}");
    }
}

#[test]
fn a_report_must_fit_the_image() {
    let diff_ids = report().diff_ids;
    assert!(check(report(), &diff_ids, 8192).is_ok());
    assert!(check(report(), &diff_ids, 4096).is_err());
    assert!(check(report(), &[], 8192).is_err());
    for image_size in [0, 4097] {
        assert!(check(UnpackReport { image_size, ..report() }, &diff_ids, 8192).is_err());
    }
}

#[test]
fn layers_lie_where_the_device_has_them() {
    let file = Arc::new(File::open("/dev/null").unwrap());
    let blob = |length, compression, digest| LayerBlob {
        file: Arc::clone(&file),
        offset: 512,
        length,
        compression,
        digest,
        diff_id: Digest::of(b"tar"),
    };
    let blobs = [
        blob(5000, images::Compression::Gzip, Some(Digest::of(b"blob"))),
        blob(1, images::Compression::Zstd, None),
        blob(1024, images::Compression::None, None),
    ];
    let layers = spec(&blobs, &UnpackConfig::default()).unwrap().layers;
    let places: Vec<_> = layers.iter().map(|layer| (layer.offset, layer.length, layer.compression)).collect();
    let expected = [(0, 5000, Compression::Gzip), (8192, 1, Compression::Zstd), (12288, 1024, Compression::None)];
    assert_eq!(places, expected);
    assert_eq!(layers[0].digest, Some(Digest::of(b"blob").to_string()));
    assert_eq!((&layers[1].digest, &layers[1].diff_id), (&None, &Digest::of(b"tar").to_string()));
}
