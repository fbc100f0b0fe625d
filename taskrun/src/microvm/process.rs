//! The process of a VMM.
//!
//! It has the control socket as its standard input, `/dev/null` as its standard output and the caller's
//! standard error for its last words; [`seal`] keeps everything else from it. Of the environment, which may
//! hold the caller's secrets, it has taskrun's own variables. It has a process group of its own, so that a Ctrl-C at
//! the caller's terminal reaches it only through its runtime.

use std::env;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use vmm::end::EndReason;

use super::{LaunchError, Machine, Meter, seal};
use crate::cpu::{CpuError, Enforcement, Hold, Share};
use crate::install::{InstallError, Installation};

/// How the names of the variables start that a VMM has too.
const OWN_VARIABLES: &[u8] = b"TASKRUN_";

/// The process of a VMM. It is ended when this is dropped.
#[derive(Debug)]
pub struct Vmm {
    process: Child,
    control: OwnedFd,
    meter: Arc<Meter>,
    /// What holds it to its share; gone when the process is.
    hold: Option<Hold>,
}

impl Vmm {
    /// Who holds it to its share.
    #[must_use]
    pub fn enforcement(&self) -> Enforcement {
        self.hold.as_ref().map_or(Enforcement::WholeVcpus, Hold::enforcement)
    }

    /// The number of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its control socket.
    pub(super) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Puts it where it can be held to this share. Gives what it has to enforce itself, in cpu units.
    pub(super) fn hold_to(&mut self, share: &Share) -> Result<Option<u32>, CpuError> {
        let hold = share.hold(self.process.id(), &self.control)?;
        Ok(self.hold.insert(hold).own_units())
    }

    /// What measures it, also when it is gone.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Starts it. It waits for its description.
    pub(super) fn spawn(installation: &Installation, messages: Option<&File>) -> Result<Self, LaunchError> {
        let messages = messages.map(File::try_clone).transpose().map_err(LaunchError::Messages)?;
        let (control, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|error| LaunchError::Socket(error.into()))?;
        seal::check().map_err(|error| LaunchError::Seal(error.into()))?;
        let mut command = Command::new(&installation.vmm);
        command
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(messages.map_or_else(Stdio::inherit, Stdio::from))
            .env_clear()
            .envs(env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(OWN_VARIABLES)))
            .current_dir("/")
            .process_group(0);
        seal::at_start(&mut command);
        let process = command.spawn().map_err(|source| InstallError::Vmm(installation.vmm.clone(), source))?;
        Ok(Self { meter: Arc::new(Meter::of(process.id())), process, control, hold: None })
    }
}

impl Machine for Vmm {
    fn events(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    fn limit(&mut self) -> Result<(), CpuError> {
        self.hold.as_ref().map_or(Ok(()), Hold::begin)
    }

    fn kill(&mut self) {
        // It fails only for a process that is gone.
        let _ = self.process.kill();
    }

    fn wait(&mut self) -> EndReason {
        let pid = i32::try_from(self.process.id()).map(Pid::from_raw);
        // It fails only for a process that was waited for.
        if pid.is_ok_and(|pid| waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).is_ok()) {
            self.meter.finish();
        }
        let message = match self.process.wait() {
            Ok(status) => match status.signal() {
                Some(signal) => return EndReason::Killed { signal },
                None => format!("it ended without a report ({status})"),
            },
            Err(error) => format!("it can't be waited for ({error})"),
        };
        EndReason::VmmError { message }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.kill();
        let _ = self.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn spawn(vmm: &Path) -> Result<Vmm, LaunchError> {
        let nowhere = || "/no/such/file".into();
        Vmm::spawn(&Installation { vmm: vmm.to_owned(), kernel: nowhere(), initramfs: nowhere() }, None)
    }

    /// One test, since no other may fork while the script is being written.
    #[test]
    fn the_vmms_process_gets_what_it_is_given_and_its_end_has_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let (script, result, secret) =
            (folder.path().join("vmm"), folder.path().join("result"), folder.path().join("secret"));
        let text = format!(
            "#!/bin/sh\nexec >'{}'\nls -l /proc/$$/fd\nenv\npwd\nps -o pgid= -p $$\necho $$\n",
            result.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        // Like a descriptor that the caller left open: without the mark.
        let left_open = nix::unistd::dup(File::create(&secret).unwrap()).unwrap();

        let mut vmm = spawn(&script).unwrap();
        let reason = vmm.wait();
        assert!(matches!(&reason, EndReason::VmmError { message } if message.contains("exit status: 0")), "{reason:?}");
        let seen = fs::read_to_string(&result).unwrap();
        assert!(seen.contains("socket:") && !seen.contains("secret"), "{seen}");
        assert!(!seen.contains("CARGO_"), "the caller's environment: {seen}");
        let lines: Vec<_> = seen.lines().rev().map(str::trim).take(3).collect();
        assert_eq!((lines[0], lines[2]), (lines[1], "/"), "a group of its own: {seen}");
        drop(left_open);

        let mut vmm = spawn(Path::new("/bin/cat")).unwrap();
        vmm.kill();
        assert_eq!(vmm.wait(), EndReason::Killed { signal: 9 });
        vmm.kill();

        let vmm = spawn(Path::new("/bin/cat")).unwrap();
        let process = format!("/proc/{}", vmm.process.id());
        assert!(Path::new(&process).exists());
        drop(vmm);
        assert!(!Path::new(&process).exists(), "a VMM that is dropped is ended");

        let error = spawn(Path::new("/no/such/vmm")).unwrap_err();
        assert!(crate::errors::chain(&error).contains("/no/such/vmm"));
    }
}
