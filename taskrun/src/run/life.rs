//! A task's life, in order: admitted to the ledger, its image got, its microVM run, its end entered.
//!
//! The ledger has the task before anything is done for it, and its end whatever happens: an error on the way is an end too, and
//! of a process that is killed the heartbeat in the task's folder tells the next taskrun when that was. What others need to reach the
//! task (its folder, its socket) is there from its admission until its end is entered, in that order, so that who
//! notices the end finds it in the ledger.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::gauge::Gauge;
use super::guest::{self, Place};
use super::outcome::Outcome;
use super::preparing::{self, Enders, Preparation};
use super::request::RunRequest;
use super::signals::Signals;
use super::stop::StopPolicy;
use super::surroundings::{Admitted, Surroundings};
use super::{HOSTNAME_DIGITS, RunError, plan, spec, window_size};
use crate::config::Config;
use crate::cpu::{self, Share};
use crate::errors::{self, EXIT_TASKRUN_FAILED};
use crate::events::{Listeners, What};
use crate::image::Prepared;
use crate::ledger::heartbeat::LastWord;
use crate::ledger::{
    self, DesiredStatus, Heartbeat, Ledger, LedgerError, NewTask, Process, Record, Stamp, Status, StopCode, Used,
};
use crate::microvm::Host;
use crate::scratch;
use crate::task::control::Control;
use crate::task::detach::Report;
use crate::task::folder::TaskFolder;
use crate::task::log::writer::Log;
use crate::template::Templates;
use crate::timings::{Phase, Timings};
use crate::voice::Voice;

/// How a task ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) id: String,
    pub(crate) exit_code: u8,
    pub(crate) stop_code: StopCode,
    /// Why, as one sentence.
    pub(crate) reason: String,
    /// What the user should know that the exit code doesn't say.
    pub(crate) sentence: Option<String>,
    /// Its record; `None` when the ledger couldn't be written.
    pub(crate) record: Option<Record>,
}

/// Lives it to its end. What the user should know on the way was told.
///
/// # Errors
/// [`RunError`] when it was not admitted. What goes wrong later is its end.
pub(crate) fn live(request: &RunRequest, surroundings: Surroundings, timings: &mut Timings) -> Result<Ended, RunError> {
    let listeners = surroundings.listeners.clone();
    let (mut host, life) = admit(request, &surroundings)
        .inspect_err(|error| listeners.tell(None, None, What::Failed(errors::chain(error))))?;
    timings.reach(Phase::Admitted);
    Ok(life.live(request, surroundings, &mut host, timings))
}

fn admit(request: &RunRequest, surroundings: &Surroundings) -> Result<(Host, Life), RunError> {
    let report = request.detach.then(Report::from_environment).transpose()?.flatten();
    let home = &surroundings.home;
    let mut ledger = Ledger::open(home)?;
    ledger.settle(&home.join(ledger::TASKS_FOLDER))?;
    cpu::cgroup::sweep(home);
    let host = request.image.host()?;
    Life::begin(request, surroundings, ledger, report).map(|life| (host, life))
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
    voice: Voice,
    listeners: Listeners,
}

impl Life {
    /// Enters the task in the ledger.
    fn begin(
        request: &RunRequest,
        surroundings: &Surroundings,
        mut ledger: Ledger,
        report: Option<Report>,
    ) -> Result<Self, RunError> {
        let Surroundings { home, voice, listeners, admitted, .. } = surroundings;
        let id = task_id(File::open("/dev/urandom")).map_err(RunError::Id)?;
        let folder = TaskFolder::create(home, &id).map_err(RunError::Folder)?;
        let supervisor = Process::own().map_err(RunError::Process)?;
        let mut begun = || {
            let mut control = Control::bind(folder.path()).map_err(RunError::Folder)?;
            let requests = admitted.is_some().then(|| control.connect()).transpose().map_err(RunError::Folder)?;
            let heartbeat = Heartbeat::start(&folder.heartbeat())?;
            let admission = ledger.admit(&NewTask {
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
            listeners.tell(Some(&id), Some(admission.created_at), What::Status(Status::Provisioning));
            if let Some((admitted, requests)) = admitted.as_ref().zip(requests) {
                // Nobody waits for it where that is gone.
                let _ = admitted.send(Admitted { id: id.clone(), requests });
            }
            Ok::<_, RunError>((control, heartbeat))
        };
        match begun() {
            Ok((control, heartbeat)) => {
                let (voice, listeners) = (voice.clone(), listeners.clone());
                Ok(Self {
                    id,
                    ledger: Rc::new(RefCell::new(ledger)),
                    folder,
                    control,
                    heartbeat,
                    report,
                    voice,
                    listeners,
                })
            }
            Err(error) => {
                // Nothing knows of it.
                let _ = folder.remove();
                Err(error)
            }
        }
    }

    fn live(
        mut self,
        request: &RunRequest,
        surroundings: Surroundings,
        host: &mut Host,
        timings: &mut Timings,
    ) -> Ended {
        let gauge = Gauge::default();
        let measured = gauge.clone();
        self.heartbeat.measure(move || measured.read());
        let result = self.run(request, surroundings, &gauge, host, timings);
        timings.quiet();
        let ended = self.end(request, &result, gauge.read());
        timings.reach(Phase::Finished);
        ended
    }

    fn run(
        &mut self,
        request: &RunRequest,
        surroundings: Surroundings,
        gauge: &Gauge,
        host: &mut Host,
        timings: &mut Timings,
    ) -> Result<Outcome, RunError> {
        let Surroundings { home, ends, attached, voice, .. } = surroundings;
        if request.detach || !attached {
            // Whoever reads the caller's messages to their end must not wait for the VMM's, and a program has its own.
            host.write_messages_to(self.folder.open_messages().map_err(RunError::Folder)?);
        }
        self.reach(Stamp::PullStarted)?;
        // From here on a signal is read, not died of: the task would end without being asked to.
        let signals = attached.then(Signals::block).transpose()?;
        let enders = Enders { signals: signals.as_ref(), control: &mut self.control };
        let prepared = match preparing::prepare(request, &home, &voice, enders, timings)? {
            Preparation::Ready(prepared) => *prepared,
            Preparation::Ended(outcome) => return Ok(outcome),
        };
        let Prepared { image, rootfs } = prepared;
        self.ledger.borrow_mut().image(&self.id, &image.digest.to_string())?;
        self.reach(Stamp::PullStopped)?;
        let hostname = request.hostname.as_deref().or(self.id.get(..HOSTNAME_DIGITS)).unwrap_or(&self.id);
        let stop = StopPolicy::new(spec::stop_signal(&image)?);
        let scratch = request.disk.map(|size| scratch::create(&home, size)).transpose()?;
        let mut plan = plan::plan(request, &rootfs, scratch, host.kvm());
        let wanted = Config::load(&home).map_err(LedgerError::from)?.cpu.enforce;
        plan.machine.share = Some(Share { cpu: request.cpu, wanted, home: home.clone(), id: self.id.clone() });
        let message = spec::task(&image, request, hostname, plan.root.clone(), request.terminal.then(window_size))?;
        let log =
            request.detach.then(|| Log::create(self.folder.path(), request.log)).transpose().map_err(RunError::Log)?;

        timings.listen(self.listener());
        let (report, id, folder, voice) = (self.report.take(), &self.id, &self.folder, &voice);
        let place = Place {
            host,
            templates: &Templates::of(&home).told_by(voice.clone()),
            signals: signals.as_ref(),
            control: &mut self.control,
            ends,
            voice,
            log: log.map(|log| Arc::new(Mutex::new(log))),
            gauge,
            enforced: Box::new(|enforcement| {
                if let Err(error) = self.ledger.borrow_mut().enforcement(&self.id, &enforcement.to_string()) {
                    voice.say_error(&error);
                }
            }),
            started: Box::new(move || {
                if let Some(Err(error)) = report.map(|report| report.started(id, folder)) {
                    voice.say_error(&error);
                }
            }),
        };
        guest::run(request, plan, message, stop, place, timings)
    }

    /// Enters that it reached a point in its life, and tells who listens.
    fn reach(&self, stamp: Stamp) -> Result<(), LedgerError> {
        let at = self.ledger.borrow_mut().reach(&self.id, stamp)?;
        self.listeners.tell(Some(&self.id), Some(at), What::Stamp(stamp));
        Ok(())
    }

    /// Enters in the ledger what a task reaches, and tells who listens.
    fn listener(&self) -> impl FnMut(Phase) + 'static {
        let (ledger, id) = (Rc::clone(&self.ledger), self.id.clone());
        let (voice, listeners) = (self.voice.clone(), self.listeners.clone());
        move |phase| {
            let what = match phase {
                Phase::VmmStarted => What::Status(Status::Pending),
                Phase::AgentReady => What::Status(Status::Activating),
                Phase::CommandStarted => What::Status(Status::Running),
                Phase::StopRequested => What::Status(Status::Stopping),
                Phase::CommandExited => What::Stamp(Stamp::ExecutionStopped),
                Phase::VmmEnded => What::Status(Status::Deprovisioning),
                _ => return,
            };
            let mut ledger = ledger.borrow_mut();
            let entered = match &what {
                What::Status(status) => ledger.reach(&id, *status),
                What::Stamp(stamp) => ledger.reach(&id, *stamp),
                _ => return,
            };
            let at = entered.inspect_err(|error| voice.say_error(error)).ok();
            listeners.tell(Some(&id), at, what);
        }
    }

    /// Enters its end, and lets go of what others reached it by.
    fn end(self, request: &RunRequest, result: &Result<Outcome, RunError>, used: Used) -> Ended {
        let Self { id, ledger, folder, control, heartbeat, report: _, voice, listeners } = self;
        let (exit_code, stop_code, reason, sentence) = match result {
            Ok(outcome) => {
                let (reason, sentence) = (outcome.reason(request.memory), outcome.sentence(request.memory));
                (outcome.exit_code(), outcome.stop_code(), reason, sentence)
            }
            Err(error) => {
                let reason = errors::chain(error);
                (EXIT_TASKRUN_FAILED, StopCode::TaskFailedToStart, reason.clone(), Some(reason))
            }
        };
        let mut ledger = ledger.borrow_mut();
        let asked = ledger.find(&id).is_ok_and(|record| record.desired_status == DesiredStatus::Stopped);
        let stop_code = match stop_code {
            StopCode::EssentialContainerExited if asked => StopCode::UserInitiated,
            stop_code => stop_code,
        };
        let end = ledger::Outcome { exit_code: Some(exit_code.into()), stop_code, reason: reason.clone(), used };
        // Where the ledger can't be written, the next command takes it from there.
        heartbeat.end(LastWord::of(&end));
        // The command's result is known and stands, whatever becomes of its record.
        let mut finished = ledger.finish(&id, &end);
        let ran = finished.as_ref().is_ok_and(|record| record.stamps.started_at.is_some());
        if request.remove {
            finished = finished.and_then(|record| ledger.remove(&id).map(|()| record));
        }
        let record = finished.inspect_err(|error| voice.say_error(error)).ok();
        match &record {
            Some(record) => {
                listeners.tell(Some(&id), record.stamps.stopped_at, What::Stopped(Box::new(record.clone())));
            }
            None => listeners.tell(Some(&id), None, What::Failed(reason.clone())),
        }
        drop((heartbeat, control));
        if request.detach && !ran {
            folder.tell_messages();
        }
        // In the foreground, or where no command ran, there is no log to keep.
        let entered = record.is_some();
        if entered && (request.remove || !request.detach || !ran) {
            let _ = folder.remove();
        }
        Ended { id, exit_code, stop_code, reason, sentence, record }
    }
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
