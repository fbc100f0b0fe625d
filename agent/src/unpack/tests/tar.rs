//! A writer of tar archives that also writes what no honest writer would.

use tar::Header;

/// An archive that is being written.
#[derive(Clone, Default)]
pub struct Tar(Vec<u8>);

/// One member of an archive; `..Member::default()` is an empty regular file of root's with mode 0644.
#[derive(Clone)]
pub struct Member<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub link: &'a [u8],
    pub content: &'a [u8],
    pub device: (u32, u32),
    pub pax: &'a [(&'a str, &'a [u8])],
}

impl Default for Member<'_> {
    fn default() -> Self {
        Self {
            name: b"",
            kind: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_000_000_000,
            link: b"",
            content: b"",
            device: (0, 0),
            pax: &[],
        }
    }
}

impl Tar {
    /// An archive of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The archive with its end.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    /// The archive as far as it is written.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.member(&Member { name: name.as_bytes(), content: content.as_bytes(), ..Member::default() })
    }

    pub fn directory(self, name: &str) -> Self {
        self.member(&Member { name: name.as_bytes(), kind: b'5', mode: 0o755, ..Member::default() })
    }

    pub fn symlink(self, name: &str, link: &str) -> Self {
        self.member(&Member { name: name.as_bytes(), kind: b'2', link: link.as_bytes(), ..Member::default() })
    }

    pub fn hard_link(self, name: &str, link: &str) -> Self {
        self.member(&Member { name: name.as_bytes(), kind: b'1', link: link.as_bytes(), ..Member::default() })
    }

    /// Adds a member. Names over 100 bytes become PAX records.
    pub fn member(self, member: &Member<'_>) -> Self {
        let mut records = Vec::new();
        for (key, value) in [("path", member.name), ("linkpath", member.link)] {
            if value.len() > 100 {
                records.extend(record(key, value));
            }
        }
        for (key, value) in member.pax {
            records.extend(record(key, value));
        }
        let tar = if records.is_empty() { self } else { self.raw(b'x', b"pax", &records) };
        let mut header = Header::new_gnu();
        fill(&mut header.as_old_mut().name, member.name);
        fill(&mut header.as_old_mut().linkname, member.link);
        header.set_mode(member.mode);
        header.set_uid(member.uid);
        header.set_gid(member.gid);
        header.set_mtime(member.mtime);
        header.set_device_major(member.device.0).unwrap();
        header.set_device_minor(member.device.1).unwrap();
        tar.header(header, member.kind, member.content)
    }

    /// Adds a header of this type and name with content.
    pub fn raw(self, kind: u8, name: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        fill(&mut header.as_old_mut().name, name);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.header(header, kind, content)
    }

    /// Adds a header, with its type, size and checksum set, and content.
    pub fn header(mut self, mut header: Header, kind: u8, content: &[u8]) -> Self {
        header.as_old_mut().linkflag = [kind];
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
}

/// A PAX record.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend(value);
    record.push(b'\n');
    record
}

fn fill(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}
