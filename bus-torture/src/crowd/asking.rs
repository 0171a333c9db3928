//! Asking processes, until they answer what they should.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::company::Company;
use super::member::Member;
use super::said::Told;

impl Company {
    /// Asks a process again and again, until its answer is right. That it never is, within `time`, is a violation, with the last answer.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn ask_until(
        &mut self,
        time: Duration,
        number: u32,
        told: Told,
        what: &str,
        right: impl Fn(&Member) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.tell(number, told)?;
            let answered = |all: &Self| {
                all.member(number).is_none_or(|member| match told {
                    Told::Peers => member.peers().is_some(),
                    _ => member.at().is_some(),
                })
            };
            let left = deadline.saturating_duration_since(Instant::now());
            self.until(left, answered)?;
            if self.member(number).is_some_and(&right) {
                return Ok(());
            }
        }
        let answer = self.member(number).map(|m| {
            format!(
                "at {:?}, peers {:?}, value {:?}",
                m.at(),
                m.peers(),
                m.value()
            )
        });
        let answer = answer.unwrap_or_else(|| "it is gone".to_owned());
        self.outcome().violation(format!(
            "within {time:?} it did not come true that {what}: {answer}"
        ));
        Ok(())
    }

    /// Asks a process until it gets further than it is.
    ///
    /// # Errors
    /// None that a process could cause.
    pub fn goes_on(&mut self, time: Duration, number: u32) -> Result<()> {
        self.ask_until(time, number, Told::Where, "somebody answers", |m| {
            m.at().is_some()
        })?;
        let Some((before, name)) = self
            .member(number)
            .and_then(|member| Some((member.at()?, member.name().to_owned())))
        else {
            return Ok(());
        };
        let what = format!("{name}, which is at {before}, goes on");
        self.ask_until(time, number, Told::Where, &what, move |member| {
            member.at().is_some_and(|at| at > before)
        })
    }
}
