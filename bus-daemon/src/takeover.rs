//! Takes a path from a broker that a process hosts for itself and others.
//!
//! Promises: a `busd` that starts where such a broker is has the path within [`PATIENCE`], and its clients come back
//! to it. A broker of another kind, or of a user that may not end it, keeps the path. It does not end a process.

use std::path::Path;
use std::time::{Duration, Instant};

use bus_core::control::{Connection, Event, Request, SESSION};

use crate::endpoint::Endpoint;
use crate::{Error, Result};

/// How long it tries. Another client may host the next broker before the path is taken, and is asked as well.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one broker may take to answer or to end.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two looks at the path.
const PAUSE: Duration = Duration::from_millis(2);

/// Takes the path, also from a broker that is hosted.
///
/// # Errors
/// As [`Endpoint::bind`]; [`Error::InUse`] where the broker that is there does not give way.
pub(crate) fn bind(path: &Path) -> Result<Endpoint> {
    let until = Instant::now() + PATIENCE;
    loop {
        match Endpoint::bind(path) {
            Err(error @ Error::InUse { .. }) => {
                if Instant::now() >= until || !gives_way(path) {
                    return Err(error);
                }
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// Asks the broker at the path to end; whether it does, or has ended.
fn gives_way(path: &Path) -> bool {
    let Ok(connection) = Connection::connect(path) else {
        // The lock is held, and nobody listens: that broker is starting or ending.
        return true;
    };
    if connection.send(SESSION, &Request::Yield {}, &[]).is_err() {
        return true;
    }
    let answer = connection.recv::<Event>(Some(Instant::now() + ANSWER));
    match answer {
        Ok(frame) => !matches!(frame.message, Event::Refused { .. }),
        // The connection is closed, which is how it ends; or there is no answer in time.
        Err(error) => !matches!(error, bus_core::Error::Timeout),
    }
}
