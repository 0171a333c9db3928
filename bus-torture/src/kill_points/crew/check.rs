//! What was promised to the survivors, looked at after each kill.

use std::time::{Duration, Instant};

use bus_client::Error;

use super::{Crew, Killed, PATIENCE, WAITER, WRITER};
use crate::kill_points::census::Census;
use crate::kill_points::content::Content;
use crate::kill_points::fault::Fault;
use crate::kill_points::operation::{Operation, SHORT, Side};
use crate::kill_points::reader::Reader;
use crate::kill_points::victim::Reading;
use crate::kill_points::{STATE, TOPIC};

/// How soon survivors have to go on after a kill.
const PROMPT: Duration = Duration::from_millis(50);
/// After so long without a change, what is there is what will be.
const STILL: Duration = Duration::from_millis(200);
/// The tag of newcomers.
const NEWCOMER: u64 = 3;

impl Crew {
    /// The victim is dead: looks at everything that was promised to the others. How long it took until they had gone on.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&mut self, victim: Killed) -> Result<Duration, Fault> {
        self.go_on(victim)?;
        self.let_go()?;
        self.see_it_gone(victim)?;
        let delay = victim.at.taken();
        self.look_at_messages(victim)?;
        self.welcome()?;
        self.look_at_state(victim)?;
        self.forget(victim);
        self.count()?;
        prompt(delay)
    }

    /// The victim is gone, without harm: looks at everything that was promised to the others, but for its messages.
    ///
    /// # Errors
    /// What does not hold.
    pub fn outlive(&mut self, victim: Killed) -> Result<Duration, Fault> {
        self.guests = None;
        self.go_on(victim)?;
        self.see_it_gone(victim)?;
        let delay = victim.at.taken();
        self.welcome()?;
        self.count()?;
        prompt(delay)
    }

    /// The other publisher sends two rings full.
    fn go_on(&mut self, victim: Killed) -> Result<(), Fault> {
        for _ in 0..2 * self.operation.depth() {
            let content = Content {
                tag: WRITER,
                sequence: self.written,
            };
            let bytes = content.bytes(SHORT);
            until(victim.at.instant(), "another publisher has no room", || {
                self.read()?;
                match self.writer.try_send(&bytes) {
                    Ok(_) => Ok(true),
                    Err(Error::Full { .. }) => Ok(false),
                    Err(error) => Err(error.into()),
                }
            })?;
            self.written += 1;
        }
        Ok(())
    }

    /// Everybody reads what is there.
    pub(super) fn read(&mut self) -> Result<(), Fault> {
        self.reader.drain()?;
        match &mut self.slow {
            Some(slow) => slow.drain(),
            None => Ok(()),
        }
    }

    /// What is held of the victim is what it was.
    fn let_go(&mut self) -> Result<(), Fault> {
        if let Some(held) = self.held.take() {
            let content = Content::read(held.bytes());
            if content.as_ref().map(|content| content.sequence) != Ok(held.sequence()) {
                return Err(Fault::Broken(format!(
                    "a message that is held has changed: {content:?}"
                )));
            }
        }
        Ok(())
    }

    /// Nobody counts the victim any more.
    fn see_it_gone(&mut self, victim: Killed) -> Result<(), Fault> {
        until(
            victim.at.instant(),
            "the victim is still counted among the members",
            || {
                self.read()?;
                let publishers = self.reader.follows(victim.pid)?;
                let subscribers = self.writer.subscribers()?;
                let counted = subscribers.iter().any(|peer| peer.pid == victim.pid);
                let slow = self.slow.as_ref().map(|slow| slow.follows(victim.pid));
                Ok(!publishers && !counted && !slow.transpose()?.unwrap_or(false))
            },
        )
    }

    /// What the victim published is there whole or not at all, and so is what others published.
    fn look_at_messages(&mut self, victim: Killed) -> Result<(), Fault> {
        if self.operation.side() == Side::Publisher && self.operation != Operation::SetState {
            let before = self.operation.before();
            let all = before + self.operation.publishes().len() as u64;
            let least = if victim.done { all } else { before };
            let came = self.reader.accounts().of(victim.tag);
            if !(least..=all).contains(&came) {
                return Err(Fault::Broken(format!(
                    "{came} messages of the victim came, and it had published {least} to {all}"
                )));
            }
        }
        let written = self.reader.accounts().of(WRITER);
        if written != self.written {
            return Err(Fault::Broken(format!(
                "{written} of {} messages of another publisher came",
                self.written
            )));
        }
        if let Some(waiter) = &mut self.waiter {
            waiter.await_sent(waiter.due(), PATIENCE)?;
            let due = waiter.due();
            until(
                victim.at.instant(),
                "messages of a publisher that slept do not come",
                || {
                    self.reader.drain()?;
                    Ok(self.reader.accounts().of(WAITER) == due)
                },
            )?;
        }
        if let Some(sleeper) = &self.sleeper {
            let tags = [victim.tag, WRITER];
            until(
                victim.at.instant(),
                "a subscriber that slept was not woken for what came",
                || {
                    for tag in tags {
                        if sleeper.of(tag)? != self.reader.accounts().of(tag) {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                },
            )?;
        }
        Ok(())
    }

    /// A publisher and a subscriber come, talk with each other and with those who are there, and go.
    fn welcome(&mut self) -> Result<(), Fault> {
        let topic = || Ok::<_, Fault>(self.operation.settle(self.bus.topic(TOPIC)?));
        let subscriber = topic()?.bytes_subscriber()?;
        let mut publisher = topic()?.bytes_publisher()?;
        self.newcomers += 1;
        let tag = NEWCOMER + (self.newcomers << 32);
        let bytes = Content { tag, sequence: 0 }.bytes(SHORT);
        publisher.try_send(&bytes)?;
        self.write(SHORT)?;
        let now = Instant::now();
        let mut seen = Vec::new();
        until(
            now,
            "a newcomer does not hear the others, or is not heard",
            || {
                self.read()?;
                while let Some(message) = subscriber.try_recv()? {
                    let content = Content::read(message.bytes());
                    seen.push(content.map_err(Fault::Broken)?.tag);
                }
                let heard = self.reader.accounts().of(tag) == 1;
                Ok(heard && seen.contains(&tag) && seen.contains(&WRITER))
            },
        )?;
        let pid = std::process::id();
        drop((publisher, subscriber));
        let publishers = 1 + usize::from(self.waiter.is_some());
        let subscribers =
            1 + usize::from(self.slow.is_some()) + usize::from(self.sleeper.is_some());
        until(now, "newcomers that have left are still counted", || {
            self.read()?;
            let counted = self.writer.subscribers()?;
            let ours = counted.iter().filter(|peer| peer.pid == pid).count();
            let slow = self.slow.as_ref().map(Reader::following).transpose()?;
            Ok(self.reader.following()? == publishers
                && slow.is_none_or(|slow| slow == publishers)
                && ours == subscribers
                && counted.len() == ours)
        })?;
        self.reader.forget(tag);
        if let Some(slow) = &mut self.slow {
            slow.forget(tag);
        }
        if let Some(sleeper) = &self.sleeper {
            until(
                now,
                "a subscriber that slept does not hear a newcomer",
                || Ok(sleeper.of(tag)? == 1 && sleeper.of(WRITER)? == self.written),
            )?;
            sleeper.forget(tag);
        }
        Ok(())
    }

    /// The state has its old value or the new one; the next writer takes over.
    fn look_at_state(&mut self, victim: Killed) -> Result<(), Fault> {
        let Some(state) = &mut self.state else {
            return Ok(());
        };
        let old = Operation::SetState.before() - 1;
        let least = old + u64::from(victim.done);
        let value = state
            .get()?
            .ok_or_else(|| Fault::Broken("the state has no value".into()))?;
        let (tag, number) = (value.tag.to_native(), value.number.to_native());
        let content = Content::read(&value.words);
        let right = content
            == Ok(Content {
                tag,
                sequence: number,
            });
        if tag != victim.tag || !(least..=old + 1).contains(&number) || !right {
            return Err(Fault::Broken(format!(
                "the state is number {number} of {tag} ({content:?}), and {least} to {} of {} are right",
                old + 1,
                victim.tag
            )));
        }
        self.newcomers += 1;
        let next = Reading::new(NEWCOMER + (self.newcomers << 32), 0);
        let mut writer = None;
        until(
            victim.at.instant(),
            "the next writer of a state is refused",
            || {
                match self.bus.state_writer::<Reading>(STATE) {
                    Ok(opened) => writer = Some(opened),
                    Err(Error::Refused(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                Ok(writer.is_some())
            },
        )?;
        if let Some(writer) = &mut writer {
            writer.set(&next)?;
        }
        drop(writer);
        until(
            victim.at.instant(),
            "the next writer's value is not seen",
            || {
                let gone = state.writer()?.is_none();
                let value = state.get()?.map(|value| value.tag.to_native());
                Ok(gone && value == Some(next.tag))
            },
        )
    }

    fn forget(&mut self, victim: Killed) {
        self.reader.forget(victim.tag);
        if let Some(slow) = &mut self.slow {
            slow.forget(victim.tag);
        }
        if let Some(sleeper) = &self.sleeper {
            sleeper.forget(victim.tag);
        }
    }

    /// A handle lets go of who has left when it is next used.
    fn hear_the_broker(&mut self) -> Result<(), Fault> {
        self.read()?;
        self.writer.subscribers()?;
        match &mut self.waiter {
            Some(waiter) => waiter.look_around(),
            None => Ok(()),
        }
    }

    /// Nothing is open or mapped that was not before.
    fn count(&mut self) -> Result<(), Fault> {
        let Some(before) = self.census else {
            return Ok(());
        };
        let mut now = Census::default();
        until(Instant::now(), "", || {
            self.hear_the_broker()?;
            now = Census::take()?;
            Ok(now == before)
        })
        .map_err(|fault| match fault {
            Fault::Slow(_) => Fault::Slow(format!(
                "left behind: {now:?}, and before it was {before:?}"
            )),
            fault => fault,
        })
    }

    /// What is there now is what has to be there after each victim.
    ///
    /// # Errors
    /// It cannot be counted.
    pub fn settle(&mut self) -> Result<(), Fault> {
        // What the last one left may still be on its way.
        let mut last = Census::take()?;
        let mut since = Instant::now();
        while since.elapsed() < STILL {
            self.hear_the_broker()?;
            let now = Census::take()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            std::thread::yield_now();
        }
        self.census = Some(last);
        Ok(())
    }
}

fn prompt(delay: Duration) -> Result<Duration, Fault> {
    if delay > PROMPT {
        return Err(Fault::Slow(format!(
            "the survivors had gone on after {delay:?}"
        )));
    }
    Ok(delay)
}

/// Asks again until it is so.
fn until(
    since: Instant,
    what: &str,
    mut so: impl FnMut() -> Result<bool, Fault>,
) -> Result<(), Fault> {
    while !so()? {
        if since.elapsed() >= PATIENCE {
            return Err(Fault::Slow(format!("{what}, after {PATIENCE:?}")));
        }
        std::thread::yield_now();
    }
    Ok(())
}
