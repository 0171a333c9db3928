//! What is to be done where members end and no broker is there to hear of it, and none may come: their process is the last one.
//!
//! Promises: of members of other processes nothing changes, unless none of them lives: then nothing is left at the path. It waits for nobody.

use std::path::Path;

use crate::census::{Census, Record, State};
use crate::endpoint::Endpoint;
use crate::{Broker, Result, process};

impl Broker {
    /// Says that members and watches of this process, by their numbers, have ended, where no broker is there that could be told. The next one tells
    /// the others. Where nobody is left who lives, no file is.
    ///
    /// # Errors
    /// [`Error::InUse`](crate::Error::InUse) if a broker is there, which is to be told. [`Error::Foreign`](crate::Error::Foreign) and
    /// [`Error::Listen`](crate::Error::Listen) as for [`bind`](Self::bind).
    pub fn farewell(path: impl AsRef<Path>, ended: &[u64]) -> Result<()> {
        let endpoint = Endpoint::hold(path.as_ref())?;
        if !Census::is_there(endpoint.path()) {
            return Ok(());
        }
        let (mut census, mut records) = Census::open(endpoint.path(), 0)?;
        let own = std::process::id();
        for record in &mut records {
            if record.pid == own && ended.contains(&record.id) {
                record.state = State::Gone;
                census.change(record.id, |record| record.state = State::Gone);
            }
        }
        if !records.iter().any(may_live) {
            records.iter().for_each(|record| census.strike(record.id));
        }
        Ok(())
    }
}

/// Whether somebody may still be there who would have to be told that others have gone.
fn may_live(record: &Record) -> bool {
    record.state != State::Gone && !matches!(process::find(record.pid, record.start), Ok(None))
}

#[cfg(test)]
mod tests {
    use bus_core::control::{Connection, Request};

    use super::*;
    use crate::Error;
    use crate::census::Kind;

    fn record(id: u64, pid: u32, start: u64) -> Record {
        Record {
            id,
            kind: Kind::Subscriber,
            state: State::Here,
            index: 0,
            watch: None,
            pid,
            start,
            uid: 0,
            digest: [0; 16],
            name: "t".into(),
        }
    }

    /// A path where a broker was killed that had these members.
    fn left(dir: &tempfile::TempDir, records: &[Record]) -> std::path::PathBuf {
        let socket = dir.path().join("s");
        let (mut census, _) = Census::open(&socket, 0).unwrap();
        records
            .iter()
            .for_each(|record| census.write(record.clone()).unwrap());
        socket
    }

    fn files(dir: &tempfile::TempDir) -> usize {
        std::fs::read_dir(dir.path()).unwrap().count()
    }

    #[test]
    fn who_is_the_last_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id();
        let start = process::start_time(me).unwrap();
        // One of its own, and one whose process is gone.
        let socket = left(&dir, &[record(20, me, start), record(21, me, start + 1)]);
        Broker::farewell(&socket, &[]).unwrap();
        assert_eq!(files(&dir), 1, "it has not said that it ended");
        Broker::farewell(&socket, &[20]).unwrap();
        assert_eq!(files(&dir), 0);
        Broker::farewell(&socket, &[20]).unwrap();
        assert_eq!(files(&dir), 0, "there was nothing");
    }

    #[test]
    fn where_others_live_the_next_broker_finds_who_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id();
        let mut other = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let start = |pid| process::start_time(pid).unwrap();
        let records = [
            record(20, me, start(me)),
            record(21, other.id(), start(other.id())),
        ];
        let socket = left(&dir, &records);
        // Others' members it cannot end.
        Broker::farewell(&socket, &[20, 21]).unwrap();
        let (census, found) = Census::open(&socket, 0).unwrap();
        let states: Vec<_> = found.iter().map(|record| record.state).collect();
        assert_eq!(states, [State::Gone, State::Here]);
        drop(census);
        other.kill().unwrap();
        other.wait().unwrap();
        Broker::farewell(&socket, &[]).unwrap();
        assert_eq!(files(&dir), 0);
    }

    /// It may be stopped before it has looked at its socket for the first time.
    #[test]
    fn what_was_said_to_a_broker_before_it_was_stopped_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id();
        let start = process::start_time(me).unwrap();
        let socket = left(&dir, &[record(20, me, start)]);
        let broker = Broker::bind(&socket).unwrap();
        let connection = Connection::connect(&socket).unwrap();
        connection.send(&Request::Ended { id: 20 }, &[]).unwrap();
        broker.stop_handle().write(1).unwrap();
        broker.run().unwrap();
        assert_eq!(files(&dir), 0);
    }

    #[test]
    fn where_a_broker_is_it_is_not_for_others_to_say() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _broker = Broker::bind(&socket).unwrap();
        let error = Broker::farewell(&socket, &[20]).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
    }
}
