//! The agent's job, and when it may have it.
//!
//! A guest from a template knows what every other one of that template knows. So it gets its job only when the VMM has said
//! that the guest took randomness of its own ([`vmm::control::VmmEvent::Seeded`]), which it does before it greets. A guest
//! that greets without it is not given one.

use protocol::message::HostMessage;

/// The guest greeted before it took its randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The guest did not take randomness of its own, so it must not run a task")]
pub struct NotSeeded;

/// What the agent gets after its greeting.
#[derive(Debug)]
pub struct Job {
    messages: Option<Vec<HostMessage>>,
    seeded: bool,
}

impl Job {
    /// The job for a guest that boots.
    #[must_use]
    pub fn booting(message: HostMessage) -> Self {
        Self { messages: Some(vec![message]), seeded: true }
    }

    /// The job for a guest from a template, which has not seen the devices in these windows.
    #[must_use]
    pub fn restored(message: HostMessage, slots: Vec<u8>) -> Self {
        let attach = (!slots.is_empty()).then_some(HostMessage::Attach(slots));
        Self { messages: Some(attach.into_iter().chain([message]).collect()), seeded: false }
    }

    /// The guest has its own randomness.
    pub fn seeded(&mut self) {
        self.seeded = true;
    }

    /// Whether the agent has it.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.messages.is_none()
    }

    /// The agent has greeted: what to send to it. Nothing when it has it already.
    ///
    /// # Errors
    /// [`NotSeeded`].
    pub fn take(&mut self) -> Result<Vec<HostMessage>, NotSeeded> {
        if self.seeded { Ok(self.messages.take().unwrap_or_default()) } else { Err(NotSeeded) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: HostMessage = HostMessage::Signal(1);

    #[test]
    fn a_guest_that_boots_gets_its_job_at_once_and_once() {
        let mut job = Job::booting(JOB);
        assert!(!job.is_taken());
        assert_eq!(job.take(), Ok(vec![JOB]));
        assert!(job.is_taken());
        assert_eq!(job.take(), Ok(vec![]));
    }

    #[test]
    fn a_restored_guest_gets_nothing_without_randomness() {
        let mut job = Job::restored(JOB, vec![1, 2]);
        assert_eq!(job.take(), Err(NotSeeded));
        job.seeded();
        assert_eq!(job.take(), Ok(vec![HostMessage::Attach(vec![1, 2]), JOB]));
        let mut job = Job::restored(JOB, vec![]);
        job.seeded();
        assert_eq!(job.take(), Ok(vec![JOB]));
    }
}
