//! VMMs that are processes with an API: what Firecracker and Cloud Hypervisor have in common.

use std::ffi::OsString;
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::api::{Api, SocketFolder};
use super::process::Process;
use super::{Guest, Payload, Restored, Snapshots, Vmm};

/// What is asked of a VMM over its API.
pub trait Protocol {
    /// The VMM's name.
    const NAME: &'static str;

    /// The options that make it listen at this path, and write what its guest sends to standard output.
    fn options(socket: &Path) -> Vec<OsString>;

    /// Makes a guest and starts it.
    fn boot(api: &mut Api, payload: &Payload) -> Result<()>;

    /// Saves a guest that runs to this folder.
    fn save(api: &mut Api, folder: &Path) -> Result<()>;

    /// Makes a guest of what was saved there, and has it go on.
    fn restore(api: &mut Api, folder: &Path) -> Result<()>;
}

/// A program that speaks a protocol.
#[derive(Debug)]
pub struct Served<P> {
    program: PathBuf,
    protocol: PhantomData<P>,
}

impl<P: Protocol> Served<P> {
    /// The program at this path.
    pub fn new(program: PathBuf) -> Self {
        Self { program, protocol: PhantomData }
    }

    /// Starts it, and connects to its API.
    fn start(&self) -> Result<(Guest, Api)> {
        let folder = SocketFolder::new()?;
        let (process, output) =
            Process::start_with_output(Command::new(&self.program).args(P::options(&folder.socket())))?;
        let guest = Guest::new(process, output);
        let api = folder.connect().with_context(|| format!("Its last words: {}", guest.process.last_words()))?;
        Ok((guest, api))
    }
}

impl<P: Protocol> Vmm for Served<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn boot(&self, payload: &Payload) -> Result<Guest> {
        let (guest, mut api) = self.start()?;
        P::boot(&mut api, payload)?;
        Ok(guest)
    }
}

impl<P: Protocol + Sync> Snapshots for Served<P> {
    fn save(&self, payload: &Payload, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let (guest, mut api) = self.start()?;
        P::boot(&mut api, payload)?;
        guest.first_output()?;
        P::save(&mut api, folder)
    }

    fn restore(&self, folder: &Path) -> Result<Restored> {
        let (guest, mut api) = self.start()?;
        P::restore(&mut api, folder)?;
        let resumed = guest.process.until(Instant::now());
        Ok(Restored { guest, resumed })
    }
}

/// Asks a VMM that does everything it is told, and gives what it was asked: `METHOD PATH` and the body.
#[cfg(test)]
pub fn asked(ask: impl Fn(&mut Api) -> Result<()>) -> Vec<(String, serde_json::Value)> {
    let (mut api, requests) = super::api::fake::serve("HTTP/1.1 204 \r\nServer: x\r\nConnection: keep-alive\r\n\r\n");
    ask(&mut api).unwrap();
    drop(api);
    requests.iter().map(|(method, path, body)| (format!("{method} {path}"), body)).collect()
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::io::{Write, stdout};

    use serde_json::{Value, json};

    use super::super::api::fake;
    use super::super::output::MARK;
    use super::*;

    /// A protocol whose VMM is a test of this very program.
    struct Fake;

    impl Protocol for Fake {
        const NAME: &'static str = "fake";

        fn options(socket: &Path) -> Vec<OsString> {
            let this = "vmms::served::tests::plays_a_vmm_for_the_other_tests";
            ["--ignored", "--nocapture", "--exact", this]
                .map(OsString::from)
                .into_iter()
                .chain([socket.into()])
                .collect()
        }

        fn boot(api: &mut Api, payload: &Payload) -> Result<()> {
            api.put("/boot", &json!(payload.kernel))
        }

        fn save(api: &mut Api, folder: &Path) -> Result<()> {
            fs::write(folder.join("saved"), "x")?;
            api.put("/save", &Value::Null)
        }

        fn restore(api: &mut Api, folder: &Path) -> Result<()> {
            api.put(&format!("/restore-{}", fs::read_to_string(folder.join("saved"))?), &Value::Null)
        }
    }

    /// Listens where its last argument says; its guest runs when something was asked.
    #[test]
    #[ignore = "the VMM's process in the other test"]
    fn plays_a_vmm_for_the_other_tests() {
        let socket = PathBuf::from(env::args_os().next_back().unwrap());
        let requests = fake::listen(&socket, "HTTP/1.1 204 \r\n\r\n");
        for (_, path, _) in requests {
            let runs = ["/boot", "/restore-x"].contains(&path.as_str());
            stdout().write_all(if runs { &[MARK] } else { b"-" }).unwrap();
            stdout().flush().unwrap();
        }
    }

    #[test]
    fn a_guest_is_booted_saved_and_restored_in_another_process() {
        let vmm = Served::<Fake>::new(env::current_exe().unwrap());
        let payload = Payload { kernel: "/k".into(), initramfs: "/i".into() };
        assert!(vmm.boot(&payload).unwrap().first_output().unwrap() > 0.0);

        let folder = tempfile::tempdir().unwrap();
        let saved = folder.path().join("0");
        vmm.save(&payload, &saved).unwrap();
        let restored = vmm.restore(&saved).unwrap();
        assert!(restored.resumed > 0.0 && restored.guest.first_output().unwrap() > 0.0);

        assert!(vmm.restore(folder.path()).is_err());
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error =
            Served::<Fake>::new("/no/such/vmm".into()).boot(&Payload { kernel: "/k".into(), initramfs: "/i".into() });
        assert!(format!("{:#}", error.unwrap_err()).contains("/no/such/vmm"));
    }
}
