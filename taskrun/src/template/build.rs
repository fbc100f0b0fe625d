//! Making a template: a microVM boots, and saves itself when its agent is ready.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm::control::{self, VmmEvent};
use vmm::end::EndReason;

use super::key::{Inputs, Key};
use super::{ABOUT, MEMORY, STATE, Template, files};
use crate::microvm::launch::launch;
use crate::microvm::{Host, LaunchError, Launched, Machine, Plan, Start, TemplateFiles};

/// How long a guest may take to be ready. It is a matter of seconds; a minute on an emulated host that is busy.
const PATIENCE: Duration = Duration::from_secs(600);

/// Nobody writes to a template again.
const MODE: u32 = 0o400;

/// Why a template can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its files can't be written.
    #[error("Its files can't be written")]
    Files(#[source] io::Error),
    /// The microVM can't be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Waiting failed.
    #[error("Its microVM can't be watched")]
    Wait(#[source] io::Error),
    /// The VMM sent what isn't an event.
    #[error("Its VMM can't be understood")]
    Vmm(#[source] control::ControlError),
    /// The guest ended, or the VMM failed.
    #[error("{0}")]
    Ended(EndReason),
    /// Nothing happened.
    #[error("Its guest was not ready within {} s", PATIENCE.as_secs())]
    Silent,
}

/// Makes a template with this key in `folder`, in the place of one that is there. With the lock held.
pub(super) fn build(folder: &Path, host: &Host, inputs: &Inputs, key: &Key) -> Result<Template, BuildError> {
    let new = tempfile::Builder::new().prefix("new.").tempdir_in(folder).map_err(BuildError::Files)?;
    let create = |name| File::options().read(true).write(true).create_new(true).open(new.path().join(name));
    let (state, memory) = create(STATE).and_then(|state| Ok((state, create(MEMORY)?))).map_err(BuildError::Files)?;
    let plan = Plan { vcpus: inputs.vcpus, memory_mib: inputs.memory_mib, ..Plan::default() };
    let files = TemplateFiles { state: &state, memory: &memory, written: &[] };
    let Launched { mut vmm, channels: _ } = launch(host, &plan, Start::Save(files))?;
    let saved = watch(&vmm);
    vmm.kill();
    let end = vmm.wait();
    match saved? {
        Some(EndReason::Ready) => {}
        reason => return Err(BuildError::Ended(reason.unwrap_or(end))),
    }
    let place = || {
        fs::write(new.path().join(ABOUT), serde_json::to_vec_pretty(inputs)?)?;
        for file in [&state, &memory] {
            file.set_permissions(fs::Permissions::from_mode(MODE))?;
            file.sync_all()?;
        }
        files::discard(folder, key.as_str())?;
        fs::rename(new.path(), folder.join(key.as_str()))?;
        File::open(folder)?.sync_all()
    };
    place().map_err(BuildError::Files)?;
    // It isn't where it would be removed from any more.
    let _ = new.keep();
    files::forget_failure(folder, key);
    Ok(Template { state, memory, folder: folder.join(key.as_str()), written: None })
}

/// Waits for the end of the machine; `None` when it says none.
fn watch(machine: &impl Machine) -> Result<Option<EndReason>, BuildError> {
    let deadline = Instant::now().checked_add(PATIENCE);
    loop {
        let left = deadline.and_then(|deadline| deadline.checked_duration_since(Instant::now()));
        let left = left.ok_or(BuildError::Silent)?.saturating_add(Duration::from_millis(1));
        let mut events = [PollFd::new(machine.events(), PollFlags::POLLIN)];
        match poll(&mut events, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            result => result.map_err(|error| BuildError::Wait(error.into()))?,
        };
        match control::receive_event(machine.events().as_fd()).map_err(BuildError::Vmm)? {
            Some(VmmEvent::Ended(reason)) => return Ok(Some(reason)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}
