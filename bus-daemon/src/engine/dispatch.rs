//! A request to the function that serves it. Everything of a request is hostile until it is checked there.

use bus_core::control::{Request, SESSION};

use super::errands::Errand;
use super::open::Open;
use super::reclaim::Reclaim;
use super::refused::Refused;
use super::session::Handle;
use super::state::Engine;
use super::world::World;

type Result = std::result::Result<(), Refused>;

impl<W: World> Engine<W> {
    pub(crate) fn dispatch(
        &mut self,
        session: u64,
        handle: u32,
        request: Request,
        mut descriptors: Vec<W::Fd>,
    ) -> Result {
        let Some(entry) = self.sessions.get(&session) else {
            return Ok(());
        };
        let greeted = entry.owner.is_some();
        if !greeted && !matches!(request, Request::Hello { .. } | Request::Yield {}) {
            return Err(Refused::protocol("the first message of a session is Hello"));
        }
        if handle == SESSION {
            return self.dispatch_session(session, request, descriptors);
        }
        let known = entry.handles.get(&handle).copied();
        // One that may still read comes back under its number.
        let presents = matches!(
            request,
            Request::PresentPeers { .. } | Request::Reclaim { .. }
        );
        let known = known.filter(|known| !(presents && matches!(known, Handle::Orphan { .. })));
        match (request, known) {
            (
                Request::Open {
                    role,
                    topic,
                    schema,
                    settings,
                    history,
                    watched,
                },
                None,
            ) => {
                none(&descriptors, "Open")?;
                let open = Open {
                    role,
                    topic,
                    schema,
                    settings,
                    history,
                    watched,
                };
                self.open(session, handle, open)
            }
            (
                Request::Watch {
                    pattern,
                    schema,
                    reclaims,
                },
                None,
            ) => {
                none(&descriptors, "Watch")?;
                self.watch(session, handle, pattern, schema, reclaims)
            }
            (Request::PresentPeers { peers }, None) => {
                none(&descriptors, "PresentPeers")?;
                self.present_peers(session, handle, peers)
            }
            (
                Request::Reclaim {
                    role,
                    topic,
                    schema,
                    settings,
                    id,
                    index,
                    watch,
                    closed,
                    since,
                    foreign,
                },
                None,
            ) => {
                let mut given = descriptors.drain(..);
                let (Some(segment), doorbell, None) = (given.next(), given.next(), given.next())
                else {
                    return Err(Refused::protocol(
                        "Reclaim comes with the handle's segment, and its doorbell if it may park",
                    ));
                };
                drop(given);
                let reclaim = Reclaim {
                    role,
                    topic,
                    schema,
                    settings,
                    id,
                    index,
                    watch,
                    closed,
                    since,
                    foreign,
                    segment,
                    doorbell,
                };
                let (name, id, role) = (reclaim.topic.clone(), reclaim.id, reclaim.role);
                let done = self.reclaim(session, handle, reclaim);
                self.note_unclaimed(session, handle, (id, role), &done);
                if let Err(refused) = &done {
                    self.orphan_unclaimed(session, handle, &name, id, refused);
                }
                done
            }
            (Request::Close {}, known) => {
                if known.is_some() {
                    none(&descriptors, "Close")?;
                }
                self.close_handle(session, handle);
                self.give_up_unclaimed(session, handle);
                Ok(())
            }
            // What is still on its way from a handle that the broker has refused.
            (
                Request::Join {}
                | Request::Released { .. }
                | Request::RegisterDoorbell {}
                | Request::Wake {}
                | Request::Decline { .. }
                | Request::Retell {},
                None,
            )
            | (
                Request::Join {}
                | Request::Released { .. }
                | Request::RegisterDoorbell {}
                | Request::Wake {}
                | Request::Retell {},
                Some(Handle::Orphan { .. }),
            ) => Ok(()),
            (Request::Join {}, Some(Handle::Member { topic, id })) => {
                let segment = one(descriptors, "Join", "the handle's segment")?;
                self.join(session, handle, topic, id, segment)
            }
            (Request::Released { ring }, Some(Handle::Member { topic, id })) => {
                none(&descriptors, "Released")?;
                self.released(topic, id, ring)
            }
            (Request::RegisterDoorbell {}, Some(Handle::Member { topic, id })) => {
                let doorbell = one(descriptors, "RegisterDoorbell", "the handle's doorbell")?;
                self.register_doorbell(topic, id, doorbell)
            }
            (Request::Wake {}, Some(Handle::Member { topic, id })) => {
                none(&descriptors, "Wake")?;
                self.wake_peers(session, topic, id);
                Ok(())
            }
            (Request::Retell {}, Some(_)) => {
                none(&descriptors, "Retell")?;
                self.ask_errand(session, Errand::Retell { session, handle });
                Ok(())
            }
            (Request::Decline { topic }, Some(Handle::Watch(watch))) => {
                none(&descriptors, "Decline")?;
                self.decline(watch, topic);
                Ok(())
            }
            (request, known) => Err(Refused::protocol(format!(
                "{} is no request of handle {handle}, which is {}",
                name_of(&request),
                match known {
                    None => "not open",
                    Some(Handle::Member { .. }) => "a publisher or subscriber",
                    Some(Handle::Watch(_)) => "a watch",
                    Some(Handle::Deferred) => "waiting for its first answer",
                    Some(Handle::Orphan { .. }) => "refused",
                }
            ))),
        }
    }

    fn dispatch_session(
        &mut self,
        session: u64,
        request: Request,
        descriptors: Vec<W::Fd>,
    ) -> Result {
        match request {
            Request::Hello {
                versions,
                features,
                client,
                secret,
                reclaims,
                generation,
            } => {
                none(&descriptors, "Hello")?;
                let returns = reclaims > 0;
                self.greet(
                    session, versions, features, &client, secret, returns, generation,
                )
            }
            Request::Received { descriptors: taken } => {
                none(&descriptors, "Received")?;
                self.acknowledge(session, taken)
            }
            Request::Retell {} => {
                none(&descriptors, "Retell")?;
                let handle = SESSION;
                self.ask_errand(session, Errand::Retell { session, handle });
                Ok(())
            }
            Request::PresentProcess {
                process,
                pid,
                user,
                client,
            } => {
                let pidfd = one(descriptors, "PresentProcess", "a pidfd")?;
                tracing::debug!(process, pid, user, client, "a process is presented");
                self.present_process(session, process, pidfd)
            }
            Request::ReclaimComplete {} => {
                none(&descriptors, "ReclaimComplete")?;
                self.reclaim_complete(session)
            }
            Request::Yield {} => self.yield_to(session),
            #[cfg(feature = "next-build")]
            Request::Remark {} | Request::Demand {} => {
                bus_core::control::next::hear(request == Request::Demand {});
                Ok(())
            }
            request => Err(Refused::protocol(format!(
                "{} is about a handle, and names none",
                name_of(&request)
            ))),
        }
    }
}

/// The name of a request, without what it holds.
fn name_of(request: &Request) -> String {
    let text = format!("{request:?}");
    let end = text.find([' ', '{']).unwrap_or(text.len());
    text[..end].to_owned()
}

fn none<F>(descriptors: &[F], request: &str) -> Result {
    if descriptors.is_empty() {
        return Ok(());
    }
    Err(Refused::protocol(format!(
        "{request} comes without descriptors"
    )))
}

fn one<F>(descriptors: Vec<F>, request: &str, what: &str) -> std::result::Result<F, Refused> {
    match <[F; 1]>::try_from(descriptors) {
        Ok([descriptor]) => Ok(descriptor),
        Err(_) => Err(Refused::protocol(format!(
            "{request} comes with one descriptor: {what}"
        ))),
    }
}
