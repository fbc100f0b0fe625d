//! Reading a task's log, also while it grows: through all its files in order, and on to the next one when one is ended.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::{Entry, numbers, path};

/// The longest line of a file that is read, in bytes: more than the writer writes, where each byte is escaped.
const LONGEST: u64 = 1 << 20;

/// A place in a task's log.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    /// The file that is read, and its number.
    file: Option<(u64, BufReader<File>)>,
    /// The start of a line whose end was not there yet.
    line: Vec<u8>,
}

impl Reader {
    /// The start of the log in `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), file: None, line: Vec::new() }
    }

    /// The next line; `None` when there is none yet. What isn't a line of a log is passed over.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(&mut self) -> io::Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.next_entry()? {
                return Ok(Some(entry));
            }
            let current = self.file.as_ref().map(|(number, _)| *number);
            let later =
                numbers(&self.folder)?.into_iter().find(|number| current.is_none_or(|current| *number > current));
            let Some(later) = later else { return Ok(None) };
            // The file may have grown between the last look at it and the beginning of the next.
            if let Some(entry) = self.next_entry()? {
                return Ok(Some(entry));
            }
            match File::open(path(&self.folder, later)) {
                Ok(file) => self.file = Some((later, BufReader::new(file))),
                // It was the oldest, and went meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.line.clear();
        }
    }

    /// The next line of the current file that is one of a log.
    fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        while let Some(line) = self.next_line()? {
            if let Ok(entry) = serde_json::from_slice(&line) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// A whole line of the current file.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some((_, file)) = &mut self.file else { return Ok(None) };
        file.take(LONGEST).read_until(b'\n', &mut self.line)?;
        let over = u64::try_from(self.line.len()).is_ok_and(|length| length >= LONGEST);
        if over || self.line.last() == Some(&b'\n') {
            return Ok(Some(std::mem::take(&mut self.line)));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};

    use super::super::writer::{Log, LogStream};
    use super::super::{Limits, Stream};
    use super::*;

    fn texts(reader: &mut Reader) -> Vec<String> {
        std::iter::from_fn(|| reader.read().unwrap()).map(|entry| entry.log).collect()
    }

    #[test]
    fn a_growing_log_is_followed_through_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(folder.path());
        assert_eq!(reader.read().unwrap(), None);
        let log = Arc::new(Mutex::new(Log::create(folder.path(), Limits { file: 600, files: 3 }).unwrap()));
        let mut out = LogStream::new(&log, Stream::Stdout);
        let mut seen = Vec::new();
        for line in 0..100 {
            out.take(format!("{line}\n").as_bytes()).unwrap();
            if line % 4 == 0 {
                seen.extend(texts(&mut reader));
            }
        }
        seen.extend(texts(&mut reader));
        assert_eq!(seen, (0..100).map(|line| format!("{line}\n")).collect::<Vec<_>>());
        // A reader that comes late has what is left, in order.
        let late = texts(&mut Reader::new(folder.path()));
        assert!(late.len() < 100 && seen.ends_with(&late));
    }

    #[test]
    fn half_a_line_is_waited_for_and_nonsense_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = path(folder.path(), 7);
        let line = r#"{"log":"a\n","stream":"stderr","time":"2026-11-24T01:02:03Z"}"#;
        let (start, end) = line.split_at(20);
        fs::write(&file, format!("nonsense\n{start}")).unwrap();
        let mut reader = Reader::new(folder.path());
        assert_eq!(reader.read().unwrap(), None);
        fs::write(&file, format!("nonsense\n{start}{end}\n")).unwrap();
        let entry = reader.read().unwrap().unwrap();
        assert_eq!((entry.log.as_str(), entry.stream), ("a\n", Stream::Stderr));
        assert_eq!(reader.read().unwrap(), None);
    }
}
