//! Accounts: how much of the broker each user takes, and which of its processes.
//!
//! Promises: a charge is in its account from when it is made until it is dropped, whatever happens between; so who is gone is charged for
//! nothing. One user's account says nothing about another's. Registrations come back with time: a bucket that fills.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use crate::bucket::Bucket;
use crate::policy::{Limits, Policy, Quota};

/// Processes that a refusal names.
const NAMED: usize = 4;
/// Accounts of users that have nothing, which are forgotten when there are more.
const IDLE: usize = 64;
/// Things that are looked at for a registration, beside what it always costs, for which it counts once more.
const LOOKED_AT: usize = 64;
/// Errands that a user has done each second; see [`errands`](crate::engine). As many may come at once.
const ERRANDS: u64 = 4000;
/// Members that an errand concerns, for which it counts once more.
const CONCERNED: usize = 16;
/// Connections of a user of which the kernel is asked each second whether they are over, because the user is refused
/// something; as many may come at once.
const POLLS: u64 = 50_000;

/// An amount of each quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts([u64; Quota::COUNT]);

impl Amounts {
    /// These, and nothing else.
    pub(crate) fn of(amounts: &[(Quota, u64)]) -> Self {
        let mut all = Self::default();
        for (quota, amount) in amounts {
            all.0[*quota as usize] += amount;
        }
        all
    }

    fn is_nothing(&self) -> bool {
        self.0.iter().all(|amount| *amount == 0)
    }

    fn add(&mut self, more: &Self) {
        for (amount, more) in self.0.iter_mut().zip(more.0) {
            *amount = amount.saturating_add(more);
        }
    }

    fn subtract(&mut self, less: &Self) {
        for (amount, less) in self.0.iter_mut().zip(less.0) {
            *amount = amount.saturating_sub(less);
        }
    }
}

/// All accounts.
#[derive(Debug, Default)]
pub(crate) struct Accounts(HashMap<u32, Rc<Account>>);

impl Accounts {
    /// A user's account.
    pub(crate) fn of(&mut self, uid: u32, policy: &Policy, now: Duration) -> Rc<Account> {
        if self.0.len() > IDLE {
            self.0.retain(|_, account| !account.is_idle(now));
        }
        let open = || Rc::new(Account::new(uid, policy.limits(uid), now));
        Rc::clone(self.0.entry(uid).or_insert_with(open))
    }

    /// Whether nobody is charged for anything.
    #[cfg(feature = "simulator")]
    pub(crate) fn are_empty(&self) -> bool {
        let mut accounts = self.0.values();
        accounts.all(|account| account.used.borrow().is_nothing() && account.in_flight() == 0)
    }

    /// From now on these limits hold. Nobody loses what it has.
    pub(crate) fn set_limits(&mut self, policy: &Policy) {
        for account in self.0.values() {
            account.limits.set(policy.limits(account.uid));
        }
    }
}

/// One user's account.
#[derive(Debug)]
pub(crate) struct Account {
    uid: u32,
    limits: Cell<Limits>,
    used: RefCell<Amounts>,
    processes: RefCell<BTreeMap<u32, Process>>,
    registrations: Bucket,
    errands: Bucket,
    polls: Bucket,
    /// Descriptors that the user's sessions have not acknowledged.
    in_flight: Cell<u32>,
}

/// What one process of the user takes.
#[derive(Debug, Default)]
struct Process {
    name: Option<String>,
    used: Amounts,
}

/// What an account has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    quota: Quota,
    asked: u64,
}

impl Account {
    fn new(uid: u32, limits: Limits, now: Duration) -> Self {
        Self {
            uid,
            limits: Cell::new(limits),
            used: RefCell::default(),
            processes: RefCell::default(),
            registrations: Bucket::full(limits[Quota::Registrations], now),
            errands: Bucket::full(ERRANDS, now),
            polls: Bucket::full(POLLS, now),
            in_flight: Cell::new(0),
        }
    }

    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    fn is_idle(&self, now: Duration) -> bool {
        self.used.borrow().is_nothing()
            && self.registrations.is_full(self.rate(), now)
            && self.errands.is_full(ERRANDS, now)
            && self.polls.is_full(POLLS, now)
    }

    /// Charges it with something that a process asks for, if there is room for all of it.
    pub(crate) fn charge(self: &Rc<Self>, pid: u32, amounts: Amounts) -> Result<Charge, Over> {
        let (limits, used) = (self.limits.get(), *self.used.borrow());
        for quota in Quota::ALL {
            let asked = amounts.0[quota as usize];
            if asked > 0 && used.0[quota as usize].saturating_add(asked) > limits[quota] {
                return Err(Over { quota, asked });
            }
        }
        Ok(self.charge_anyway(pid, amounts))
    }

    /// Charges it with something that is there already, whether there is room or not.
    pub(crate) fn charge_anyway(self: &Rc<Self>, pid: u32, amounts: Amounts) -> Charge {
        self.used.borrow_mut().add(&amounts);
        let mut processes = self.processes.borrow_mut();
        processes.entry(pid).or_default().used.add(&amounts);
        Charge {
            account: Rc::clone(self),
            pid,
            amounts,
        }
    }

    fn discharge(&self, pid: u32, amounts: &Amounts) {
        self.used.borrow_mut().subtract(amounts);
        let mut processes = self.processes.borrow_mut();
        if let Some(process) = processes.get_mut(&pid) {
            process.used.subtract(amounts);
            if process.used.is_nothing() {
                processes.remove(&pid);
            }
        }
    }

    /// The name of a process that is charged for something.
    pub(crate) fn name(&self, pid: u32, name: &str) {
        if let Some(process) = self.processes.borrow_mut().get_mut(&pid) {
            process.name = Some(name.to_owned());
        }
    }

    /// Takes a registration for which so many things are looked at; if there is none left, how long until there is.
    pub(crate) fn register(&self, now: Duration, looked_at: usize) -> Result<(), Duration> {
        let cost = 1 + looked_at / LOOKED_AT;
        self.registrations.take(self.rate(), now, cost)
    }

    /// A registration that was taken needs so many things more to be looked at.
    pub(crate) fn register_more(&self, now: Duration, looked_at: usize) {
        let (rate, cost) = (self.rate(), looked_at / LOOKED_AT);
        self.registrations.spend(rate, now, cost);
    }

    /// How long until the user may have an errand done.
    pub(crate) fn errand_in(&self, now: Duration) -> Duration {
        self.errands.wait(ERRANDS, now)
    }

    /// Takes an errand that concerns so many members; whether there was one left.
    pub(crate) fn take_errand(&self, now: Duration, concerned: usize) -> bool {
        let cost = 1 + concerned / CONCERNED;
        self.errands.take(ERRANDS, now, cost).is_ok()
    }

    /// Takes the right to ask the kernel about so many of the user's connections; whether there is one now.
    pub(crate) fn take_polls(&self, now: Duration, connections: usize) -> bool {
        self.polls.take(POLLS, now, connections).is_ok()
    }

    /// Descriptors that the user's sessions have not acknowledged.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Descriptors were sent to a session of the user.
    pub(crate) fn add_in_flight(&self, descriptors: u32) {
        self.in_flight.set(self.in_flight.get() + descriptors);
    }

    /// They have arrived, or the session is over.
    pub(crate) fn remove_in_flight(&self, descriptors: u32) {
        let left = self.in_flight.get().checked_sub(descriptors);
        debug_assert!(left.is_some(), "descriptors arrive once");
        self.in_flight.set(left.unwrap_or(0));
    }

    /// How much a second, for a refusal.
    pub(crate) fn rate(&self) -> u64 {
        self.limits.get()[Quota::Registrations]
    }

    /// Which quota, its limit, what is used, and by whom.
    pub(crate) fn explain(&self, over: Over) -> String {
        let Over { quota, asked } = over;
        let at = quota as usize;
        let (limit, used) = (self.limits.get()[quota], self.used.borrow().0[at]);
        let processes = self.processes.borrow();
        let mut users: Vec<_> = processes
            .iter()
            .map(|(pid, process)| (process.used.0[at], *pid, process.name.as_deref()))
            .filter(|(used, ..)| *used > 0)
            .collect();
        users.sort_unstable_by(|a, b| b.cmp(a));
        let more = users.len().saturating_sub(NAMED);
        let mut who: Vec<_> = users
            .iter()
            .take(NAMED)
            .map(|(used, pid, name)| match name {
                Some(name) => format!("{used} by {name} (process {pid})"),
                None => format!("{used} by process {pid}"),
            })
            .collect();
        if more > 0 {
            who.push(format!("the rest by {more} more"));
        }
        let who = if who.is_empty() {
            String::new()
        } else {
            format!(": {}", who.join(", "))
        };
        format!(
            "user {} may have {limit} {quota} and has {used}{who}; asked for {asked} more. Close some, or raise `{quota}` in the broker's policy",
            self.uid
        )
    }
}

/// Something that a user is charged for, until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    account: Rc<Account>,
    pid: u32,
    amounts: Amounts,
}

impl Charge {
    /// Who is charged.
    pub(crate) fn account(&self) -> &Rc<Account> {
        &self.account
    }

    /// The process that it is charged for.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Gives back what it has of one quota.
    pub(crate) fn release(&mut self, quota: Quota) {
        let amount = std::mem::take(&mut self.amounts.0[quota as usize]);
        let amounts = Amounts::of(&[(quota, amount)]);
        self.account.discharge(self.pid, &amounts);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.discharge(self.pid, &self.amounts);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn account(text: &str) -> Rc<Account> {
        let policy = Policy::parse(Path::new("t"), text, 1000).unwrap();
        Accounts::default().of(7, &policy, Duration::ZERO)
    }

    #[test]
    fn a_charge_is_there_until_it_is_dropped_and_no_longer() {
        let account = account("[limits]\ntopics = 2\nbytes = 100\n");
        let topic = |bytes| Amounts::of(&[(Quota::Topics, 1), (Quota::Bytes, bytes)]);
        let first = account.charge(1, topic(60)).unwrap();
        account.name(1, "feed");
        let over = account.charge(2, topic(41)).unwrap_err();
        assert_eq!(over.quota, Quota::Bytes);
        let why = account.explain(over);
        assert!(
            why.contains(
                "user 7 may have 100 bytes and has 60: 60 by feed (process 1); asked for 41 more"
            ),
            "{why}"
        );
        let mut second = account.charge(2, topic(40)).unwrap();
        assert_eq!(
            account.charge(2, topic(0)).unwrap_err().quota,
            Quota::Topics
        );
        second.release(Quota::Topics);
        let third = account.charge(3, topic(0)).unwrap();
        drop((first, second, third));
        assert!(account.used.borrow().is_nothing());
        assert!(account.processes.borrow().is_empty());
    }

    #[test]
    fn what_is_there_already_is_charged_beyond_the_limit() {
        let account = account("[limits]\ntopics = 0\n");
        let topic = Amounts::of(&[(Quota::Topics, 1)]);
        let charge = account.charge_anyway(1, topic);
        assert!(account.charge(1, topic).is_err());
        drop(charge);
        assert!(account.used.borrow().is_nothing());
    }

    #[test]
    fn registrations_come_back_with_time_and_a_second_is_all_that_is_saved_up() {
        let account = account("[limits]\nregistrations = 4\n");
        let start = Duration::from_secs(10);
        for _ in 0..4 {
            account.register(start, 0).unwrap();
        }
        let wait = account.register(start, 0).unwrap_err();
        assert_eq!(wait, Duration::from_millis(250));
        assert!(account.register(start + wait / 2, 0).is_err());
        account.register(start + wait, 0).unwrap();
        assert!(account.register(start + wait, 0).is_err());
        let later = start + Duration::from_secs(1000);
        let taken = (0..100)
            .filter(|_| account.register(later, 0).is_ok())
            .count();
        assert_eq!(taken, 4);
    }

    #[test]
    fn what_costs_more_than_there_is_goes_once_and_the_next_one_waits_for_it() {
        let account = account("[limits]\nregistrations = 4\n");
        let start = Duration::from_secs(10);
        account.register(start, 6 * LOOKED_AT).unwrap();
        let wait = account.register(start, 0).unwrap_err();
        assert_eq!(wait, Duration::from_secs(1), "three too many, and one more");
        account.register(start + wait, 0).unwrap();
        account.register_more(start + wait, 3 * LOOKED_AT);
        let wait = account.register(start + wait, 0).unwrap_err();
        assert_eq!(wait, Duration::from_secs(1));
    }

    #[test]
    fn a_bucket_is_not_filled_by_leaving() {
        let policy = Policy::own(1000);
        let mut accounts = Accounts::default();
        let now = Duration::ZERO;
        while accounts.of(7, &policy, now).register(now, 0).is_ok() {}
        for uid in 100..200 {
            accounts.of(uid, &policy, now);
        }
        assert!(accounts.of(7, &policy, now).register(now, 0).is_err());
        assert!(accounts.0.len() < 100, "who has nothing is forgotten");
    }
}
