//! A task's life, in order: admitted to the ledger, its image got, its microVM run, its end entered.
//!
//! The ledger has the task before anything is done for it, and its end whatever happens: an error on the way is an end too, and
//! of a process that is killed the heartbeat in the task's folder tells the next taskrun when that was. What others need to reach the
//! task (its folder, its socket) is there from its admission until its end is entered, in that order, so that who
//! notices the end finds it in the ledger.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use nix::sys::resource::{UsageWho, getrusage};

use super::guest::{self, Ended, Place};
use super::outcome::Outcome;
use super::request::RunRequest;
use super::signals::Signals;
use super::stop::StopPolicy;
use super::{HOSTNAME_DIGITS, RunError, plan, spec, window_size};
use crate::errors::{self, EXIT_TASKRUN_FAILED};
use crate::image::{Images, Prepared};
use crate::ledger::{self, DesiredStatus, Heartbeat, Ledger, NewTask, Process, Stamp, Status, StopCode, Used};
use crate::microvm::Host;
use crate::scratch;
use crate::task::control::Control;
use crate::task::detach::Report;
use crate::task::folder::TaskFolder;
use crate::task::log::writer::Log;
use crate::template::Templates;
use crate::timings::{Phase, Timings};

/// Lives it. Gives the exit code; what the user should know besides was told.
pub(super) fn live(request: &RunRequest, timings: &mut Timings) -> Result<u8, RunError> {
    let report = request.detach.then(Report::from_environment).transpose()?.flatten();
    let home = ledger::home::resolve()?;
    let mut ledger = Ledger::open(&home)?;
    ledger.settle(&home.join(ledger::TASKS_FOLDER))?;
    let mut host = Host::open(request.image.kernel.as_deref())?;
    let mut life = Life::begin(request, &home, ledger, report)?;
    timings.reach(Phase::Admitted);

    let cpu_before = cpu_of_children();
    let result = life.run(request, &home, &mut host, timings);
    timings.quiet();
    let cpu_ns = cpu_of_children().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    let used = Used { cpu_ns, bytes_out: result.as_ref().ok().map(|ended| ended.bytes_out), ..Used::default() };
    let result = result.map(|ended| ended.outcome);
    life.end(request, &result, used);
    timings.reach(Phase::Finished);
    let outcome = result?;
    if let Some(sentence) = outcome.sentence(request.memory) {
        errors::say(&sentence);
    }
    Ok(outcome.exit_code())
}

/// A task that is in the ledger and has not ended.
struct Life {
    id: String,
    ledger: Rc<RefCell<Ledger>>,
    folder: TaskFolder,
    control: Control,
    heartbeat: Heartbeat,
    /// Who waits for the task to run, if it is detached.
    report: Option<Report>,
}

impl Life {
    /// Enters the task in the ledger.
    fn begin(request: &RunRequest, home: &Path, mut ledger: Ledger, report: Option<Report>) -> Result<Self, RunError> {
        let id = task_id(File::open("/dev/urandom")).map_err(RunError::Id)?;
        let folder = TaskFolder::create(home, &id).map_err(RunError::Folder)?;
        let supervisor = Process::own().map_err(RunError::Process)?;
        let mut begun = || {
            let control = Control::bind(folder.path()).map_err(RunError::Folder)?;
            let heartbeat = Heartbeat::start(&folder.heartbeat())?;
            ledger.admit(&NewTask {
                id: id.clone(),
                name: request.name.clone(),
                image: request.image.reference.to_string(),
                cpu_units: request.cpu.units(),
                memory_mib: request.memory.mib(),
                storage_mib: request.disk.map_or(0, |size| size.bytes() / (1 << 20)),
                labels: request.labels.clone(),
                detached: request.detach,
                supervisor,
            })?;
            Ok::<_, RunError>((control, heartbeat))
        };
        match begun() {
            Ok((control, heartbeat)) => {
                Ok(Self { id, ledger: Rc::new(RefCell::new(ledger)), folder, control, heartbeat, report })
            }
            Err(error) => {
                // Nothing knows of it.
                let _ = folder.remove();
                Err(error)
            }
        }
    }

    fn run(
        &mut self,
        request: &RunRequest,
        home: &Path,
        host: &mut Host,
        timings: &mut Timings,
    ) -> Result<Ended, RunError> {
        if request.detach {
            // Whoever reads the caller's messages to their end must not wait for the VMM's.
            host.write_messages_to(self.folder.open_messages().map_err(RunError::Folder)?);
        }
        self.ledger.borrow_mut().reach(&self.id, Stamp::PullStarted)?;
        let Prepared { image, rootfs } = Images::open()?.prepare(&request.image, timings)?;
        self.ledger.borrow_mut().image(&self.id, &image.digest.to_string())?;
        self.ledger.borrow_mut().reach(&self.id, Stamp::PullStopped)?;
        let hostname = request.hostname.as_deref().or(self.id.get(..HOSTNAME_DIGITS)).unwrap_or(&self.id);
        let stop = StopPolicy::new(spec::stop_signal(&image)?);
        let scratch = request.disk.map(|size| scratch::create(home, size)).transpose()?;
        let plan = plan::plan(request, &rootfs, scratch, host.kvm());
        let message = spec::task(&image, request, hostname, plan.root.clone(), request.terminal.then(window_size))?;
        let log =
            request.detach.then(|| Log::create(self.folder.path(), request.log)).transpose().map_err(RunError::Log)?;

        // From here on a signal is read, not died of: the task would end without being asked to.
        let signals = Signals::block()?;
        timings.listen(listener(&self.ledger, &self.id));
        let (report, id, folder) = (self.report.take(), &self.id, &self.folder);
        let place = Place {
            host,
            templates: &Templates::of(home),
            signals: &signals,
            control: &mut self.control,
            log: log.map(|log| Arc::new(Mutex::new(log))),
            started: Box::new(move || {
                if let Some(Err(error)) = report.map(|report| report.started(id, folder)) {
                    errors::say(&errors::chain(&error));
                }
            }),
        };
        guest::run(request, plan, message, stop, place, timings)
    }

    /// Enters its end, and lets go of what others reached it by.
    fn end(self, request: &RunRequest, result: &Result<Outcome, RunError>, used: Used) {
        let (exit_code, stop_code, reason) = match result {
            Ok(outcome) => (outcome.exit_code(), outcome.stop_code(), outcome.reason(request.memory)),
            Err(error) => (EXIT_TASKRUN_FAILED, StopCode::TaskFailedToStart, errors::chain(error)),
        };
        let Self { id, ledger, folder, control, heartbeat, report: _ } = self;
        let mut ledger = ledger.borrow_mut();
        let asked = ledger.find(&id).is_ok_and(|record| record.desired_status == DesiredStatus::Stopped);
        let stop_code = match stop_code {
            StopCode::EssentialContainerExited if asked => StopCode::UserInitiated,
            stop_code => stop_code,
        };
        let end = ledger::Outcome { exit_code: Some(exit_code.into()), stop_code, reason, used };
        // The command's result is known and stands, whatever becomes of its record.
        let mut finished = ledger.finish(&id, &end);
        let ran = finished.as_ref().is_ok_and(|record| record.stamps.started_at.is_some());
        if request.remove {
            finished = finished.and_then(|record| ledger.remove(&id).map(|()| record));
        }
        if let Err(error) = finished {
            errors::say(&errors::chain(&error));
        }
        drop((heartbeat, control));
        if request.detach && !ran {
            folder.tell_messages();
        }
        // In the foreground, or where no command ran, there is no log to keep.
        if request.remove || !request.detach || !ran {
            let _ = folder.remove();
        }
    }
}

/// Enters in the ledger what a task reaches.
fn listener(ledger: &Rc<RefCell<Ledger>>, id: &str) -> impl FnMut(Phase) + 'static {
    let (ledger, id) = (Rc::clone(ledger), id.to_owned());
    move |phase| {
        let mut ledger = ledger.borrow_mut();
        let entered = match phase {
            Phase::VmmStarted => ledger.reach(&id, Status::Pending),
            Phase::AgentReady => ledger.reach(&id, Status::Activating),
            Phase::CommandStarted => ledger.reach(&id, Status::Running),
            Phase::StopRequested => ledger.reach(&id, Status::Stopping),
            Phase::CommandExited => ledger.reach(&id, Stamp::ExecutionStopped),
            Phase::VmmEnded => ledger.reach(&id, Status::Deprovisioning),
            _ => Ok(()),
        };
        if let Err(error) = entered {
            errors::say(&errors::chain(&error));
        }
    }
}

/// The processor time of this process's children that have ended, in nanoseconds: of VMMs, with all that their guests took.
fn cpu_of_children() -> Option<u64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok()?;
    let ns = |time: nix::sys::time::TimeVal| {
        let (seconds, micros) = (u64::try_from(time.tv_sec()).ok()?, u64::try_from(time.tv_usec()).ok()?);
        seconds.checked_mul(1_000_000_000)?.checked_add(micros.checked_mul(1000)?)
    };
    ns(usage.user_time())?.checked_add(ns(usage.system_time())?)
}

/// A new task's id: 128 random bits as 32 hexadecimal digits.
fn task_id(random: io::Result<impl Read>) -> io::Result<String> {
    let mut bytes = [0; 16];
    random?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tasks_id_has_32_digits() {
        assert_eq!(task_id(Ok([0_u8; 16].as_slice())).unwrap(), "0".repeat(32));
        assert_eq!(task_id(Ok([0xab_u8; 20].as_slice())).unwrap(), "ab".repeat(16));
        assert!(task_id(Ok([0_u8; 15].as_slice())).is_err());
    }
}
