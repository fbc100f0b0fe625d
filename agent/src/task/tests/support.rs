//! A host and a guest for the tests: the agent's story in a thread with a mount namespace of its own, the host's side of
//! every channel in the test.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use protocol::frame::{self, Decoder};
use protocol::message::{AgentMessage, ExitHow, Failure, HostMessage, UnpackProgress};
use protocol::port;
use protocol::spec::{Process, Stdio, TaskSpec, UnpackSpec, WindowSize};

use crate::container::Container;
use crate::container::skeleton::Skeleton;
use crate::control::Control;
use crate::task::{Guest, Unpacked, serve};
use crate::vsock::Host;

/// What a test waits at most for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is different in the image.
pub struct Image {
    mount_points: bool,
    link: Option<(String, String)>,
    fifo: Option<String>,
}

impl Image {
    pub fn plain() -> Self {
        Self { mount_points: true, link: None, fifo: None }
    }

    pub fn bare() -> Self {
        Self { mount_points: false, ..Self::plain() }
    }

    pub fn with_link(name: &str, target: &str) -> Self {
        Self { mount_points: false, link: Some((name.into(), target.into())), fifo: None }
    }

    pub fn with_fifo(path: &str) -> Self {
        Self { fifo: Some(path.into()), ..Self::plain() }
    }

    /// Writes the image into the directory `root`.
    fn write(&self, root: &Path) -> io::Result<()> {
        for directory in ["usr", "etc", "tmp"] {
            fs::create_dir(root.join(directory))?;
        }
        for name in ["bin", "lib", "lib64"] {
            symlink(Path::new("usr").join(name), root.join(name))?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/srv/www:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "root:x:0:\nadm:x:4:www\ntty:x:5:\nwww:x:33:\n")?;
        if self.mount_points {
            ["dev", "proc", "sys"].iter().try_for_each(|name| fs::create_dir(root.join(name)))?;
        }
        if let Some((name, target)) = &self.link {
            symlink(target, root.join(name))?;
        }
        if let Some(path) = &self.fifo {
            fs::remove_file(root.join(path))?;
            nix::unistd::mkfifo(&root.join(path), Mode::S_IRUSR)?;
        }
        mount(Some("/usr"), &root.join("usr"), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    }
}

/// A task to be run.
pub struct Task {
    spec: TaskSpec,
    image: Image,
    before: Vec<HostMessage>,
    input: Option<Vec<u8>>,
}

impl Task {
    pub fn new(argv: &[&str]) -> Self {
        let process = Process {
            argv: argv.iter().map(|one| one.as_bytes().to_vec()).collect(),
            env: vec![b"PATH=/usr/bin:/bin".to_vec()],
            cwd: b"/srv/here".to_vec(),
            user: String::new(),
        };
        let spec = TaskSpec { process, hostname: "box".into(), ..TaskSpec::default() };
        Self { spec, image: Image::plain(), before: Vec::new(), input: None }
    }

    pub fn user(mut self, user: &str) -> Self {
        self.spec.process.user = user.into();
        self
    }

    pub fn cwd(mut self, cwd: &str) -> Self {
        self.spec.process.cwd = cwd.into();
        self
    }

    pub fn read_only(mut self) -> Self {
        self.spec.root.read_only = true;
        self
    }

    pub fn image(mut self, image: Image) -> Self {
        self.image = image;
        self
    }

    pub fn terminal(mut self, size: WindowSize) -> Self {
        self.spec.stdio.terminal = Some(size);
        self
    }

    /// A message right behind the task.
    pub fn before(mut self, message: HostMessage) -> Self {
        self.before.push(message);
        self
    }

    /// Standard input with an end.
    pub fn stdin(mut self, input: Vec<u8>) -> Self {
        self.input = Some(input);
        self.open_stdin()
    }

    /// Standard input without an end.
    pub fn open_stdin(mut self) -> Self {
        self.spec.stdio.stdin = true;
        self
    }

    pub fn run(self) -> Ended {
        self.start().finish()
    }

    pub fn start(self) -> Running {
        self.start_with(|running| {
            running.read(port::STDOUT);
            running.read(port::STDERR);
        })
    }

    /// Nobody reads standard output.
    pub fn start_unread(self) -> Running {
        self.start_with(|running| running.read(port::STDERR))
    }

    /// Standard output is closed at the host.
    pub fn start_without_stdout(self) -> Running {
        self.start_with(|running| {
            running.channels.remove(&port::STDOUT);
            running.read(port::STDERR);
        })
    }

    fn start_with(self, connect: impl FnOnce(&mut Running)) -> Running {
        let (host, channels) = SocketHost::new(self.spec.stdio);
        let mut control = channels[&port::CONTROL].try_clone().unwrap();
        frame::write(&mut control, &HostMessage::Run(Box::new(self.spec))).unwrap();
        self.before.iter().for_each(|message| frame::write(&mut control, message).unwrap());
        let image = self.image;
        let agent = thread::spawn(move || {
            let socket = host.connect(port::CONTROL).unwrap();
            let guest = TestGuest::new(image);
            let container = Container::prepare(&guest.directory.path().join("container"), &guest.cgroup);
            serve(Control::new(socket), &host, &guest, container)
        });
        let mut running = Running { channels, outputs: HashMap::new(), input: None, agent };
        connect(&mut running);
        if let Some(input) = self.input {
            let mut stdin = running.channels[&port::STDIN].try_clone().unwrap();
            running.input = Some(thread::spawn(move || {
                // A command may end without reading everything.
                let _ = stdin.write_all(&input);
                let _ = stdin.shutdown(std::net::Shutdown::Write);
            }));
        }
        running
    }
}

/// What has arrived on a stream so far, and whether it has ended.
type Arrived = Arc<(Mutex<(Vec<u8>, bool)>, Condvar)>;

/// A task that runs.
pub struct Running {
    channels: HashMap<u32, UnixStream>,
    outputs: HashMap<u32, Arrived>,
    input: Option<JoinHandle<()>>,
    agent: JoinHandle<Result<(), crate::control::ControlError>>,
}

impl Running {
    /// Collects what arrives on a channel, where the task has it.
    fn read(&mut self, port: u32) {
        let Some(mut stream) = self.channels.remove(&port) else { return };
        let arrived = Arrived::default();
        self.outputs.insert(port, Arc::clone(&arrived));
        thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            loop {
                let count = stream.read(&mut chunk).unwrap_or_default();
                let mut state = arrived.0.lock().unwrap();
                state.0.extend_from_slice(&chunk[..count]);
                state.1 = count == 0;
                arrived.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
    }

    fn wait(&self, port: u32, condition: impl Fn(&(Vec<u8>, bool)) -> bool) -> Vec<u8> {
        let Some(arrived) = self.outputs.get(&port) else { return Vec::new() };
        let state = arrived.0.lock().unwrap();
        let (state, timeout) = arrived.1.wait_timeout_while(state, PATIENCE, |state| !condition(state)).unwrap();
        assert!(!timeout.timed_out(), "got only {:?}", String::from_utf8_lossy(&state.0));
        state.0.clone()
    }

    pub fn wait_for_output(&self, expected: &str) {
        let got = self.wait(port::STDOUT, |(bytes, ended)| *ended || bytes.len() >= expected.len());
        assert_eq!(String::from_utf8_lossy(&got), expected);
    }

    /// Waits until the channel of standard output has stopped filling up.
    pub fn wait_until_blocked(&self) {
        let stdout = &self.channels[&port::STDOUT];
        let mut before = 0;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let now = unread(stdout);
            if now > 0 && now == before {
                return;
            }
            before = now;
            thread::sleep(Duration::from_millis(100));
        }
        panic!("standard output never filled up");
    }

    pub fn send(&self, message: &HostMessage) {
        frame::write(&mut &self.channels[&port::CONTROL], message).unwrap();
    }

    pub fn write(&self, bytes: &[u8]) {
        (&self.channels[&port::STDIN]).write_all(bytes).unwrap();
    }

    pub fn finish(mut self) -> Ended {
        let mut control = self.channels.remove(&port::CONTROL).unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        // Output that nobody has read so far is read now, as it would be in the end.
        self.read(port::STDOUT);
        let mut decoder = Decoder::default();
        let mut messages = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let count = control.read(&mut chunk).unwrap_or_else(|error| panic!("{error} after {messages:?}"));
            decoder.extend(&chunk[..count]);
            while let Some(message) = decoder.next::<AgentMessage>().unwrap() {
                messages.push(message);
            }
            if count == 0 {
                break;
            }
        }
        drop(control);
        self.agent.join().unwrap().unwrap();
        self.channels.clear();
        if let Some(input) = self.input.take() {
            input.join().unwrap();
        }
        let arrived = |port| {
            let arrived: Option<&Arrived> = self.outputs.get(&port);
            arrived.map(|arrived| {
                let state = arrived.0.lock().unwrap();
                let (state, timeout) = arrived.1.wait_timeout_while(state, PATIENCE, |state| !state.1).unwrap();
                assert!(!timeout.timed_out());
                state.0.clone()
            })
        };
        let stdout_bytes = arrived(port::STDOUT).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&arrived(port::STDERR).unwrap_or_default()).into_owned();
        Ended { messages, stdout: String::from_utf8_lossy(&stdout_bytes).into_owned(), stdout_bytes, stderr }
    }
}

/// A task that has ended.
pub struct Ended {
    pub messages: Vec<AgentMessage>,
    pub stdout: String,
    pub stdout_bytes: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn how(&self) -> ExitHow {
        match self.messages.last() {
            Some(AgentMessage::Exited(status)) => status.how,
            _ => panic!("the task did not exit: {:?}", self.messages),
        }
    }

    pub fn failure(&self) -> Failure {
        match self.messages.last() {
            Some(AgentMessage::Failed(failure)) => failure.clone(),
            _ => panic!("the task did not fail: {:?}, stdout {:?}", self.messages, self.stdout),
        }
    }
}

/// The agent's ends of the channels.
struct SocketHost(Mutex<HashMap<u32, UnixStream>>);

impl SocketHost {
    fn new(stdio: Stdio) -> (Self, HashMap<u32, UnixStream>) {
        let mut ports = vec![port::CONTROL, port::STDOUT];
        ports.extend(stdio.stdin.then_some(port::STDIN));
        ports.extend(stdio.terminal.is_none().then_some(port::STDERR));
        let (agent, host) = ports
            .into_iter()
            .map(|port| {
                let (agent, host) = UnixStream::pair().unwrap();
                ((port, agent), (port, host))
            })
            .unzip();
        (Self(Mutex::new(agent)), host)
    }
}

impl Host for SocketHost {
    fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        let socket = self.0.lock().unwrap().remove(&port);
        socket.map(OwnedFd::from).ok_or_else(|| io::ErrorKind::ConnectionReset.into())
    }
}

/// A guest whose image is the test machine's `/usr`. Belongs to a thread, to which it gives a mount namespace of its own.
struct TestGuest {
    image: Image,
    directory: tempfile::TempDir,
    root: PathBuf,
    cgroup: PathBuf,
}

impl TestGuest {
    fn new(image: Image) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let [root, cgroups] = ["root", "cgroups"].map(|name| directory.path().join(name));
        for (path, kind) in [(&root, "tmpfs"), (&cgroups, "cgroup2")] {
            fs::create_dir(path).unwrap();
            mount(Some(kind), path, Some(kind), MsFlags::empty(), None::<&str>).unwrap();
        }
        let name = directory.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        let cgroup = cgroups.join(format!("taskrun-test-{name}"));
        fs::create_dir(&cgroup).unwrap();
        Self { image, directory, root, cgroup }
    }
}

impl Drop for TestGuest {
    fn drop(&mut self) {
        // The last process of the cgroup is gone: its parent has waited for it.
        let _ = fs::remove_dir(self.cgroup.join("task"));
        let removed = fs::remove_dir(&self.cgroup);
        let _ = nix::mount::umount2(&self.root, nix::mount::MntFlags::MNT_DETACH);
        let _ = nix::mount::umount2(&self.directory.path().join("cgroups"), nix::mount::MntFlags::MNT_DETACH);
        if !thread::panicking() {
            removed.unwrap();
        }
    }
}

impl Guest for TestGuest {
    fn attach(&self, _: &[u8]) -> Result<(), Failure> {
        panic!("the guest here was not saved")
    }

    fn unpack(&self, _: &UnpackSpec, _: &mut dyn FnMut(UnpackProgress)) -> Result<Unpacked, Failure> {
        panic!("the tests here are of tasks")
    }

    fn mount_root(&self, _: &TaskSpec, _: &Skeleton) -> Result<Vec<String>, Failure> {
        self.image.write(&self.root).unwrap();
        Ok(Vec::new())
    }

    fn root(&self) -> &Path {
        &self.root
    }
}

/// How many bytes wait on `stream`.
fn unread(stream: &UnixStream) -> usize {
    let mut buffer = vec![0; 4 << 20];
    let flags = nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT;
    nix::sys::socket::recv(std::os::fd::AsRawFd::as_raw_fd(&stream.as_fd()), &mut buffer, flags).unwrap_or_default()
}
