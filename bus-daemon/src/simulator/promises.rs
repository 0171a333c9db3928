//! What a handle knows when it is told a version, an index, or that it has joined.

use bus_core::control::Role;

use super::books::Books;

impl Books {
    /// A publisher has got an index.
    pub(super) fn index_given(&mut self, session: u64, handle: u32) -> Result<(), String> {
        let Some(own) = self.book(session, handle) else {
            return Ok(());
        };
        let (number, index, lossless) = (own.number(), own.index, own.lossless);
        let id = own.id;
        let members = self.members.get(&number).cloned().unwrap_or_default();
        for (of, other) in members {
            let Some(book) = self.book(of, other) else {
                continue;
            };
            if book.role == Role::Publisher {
                if book.index == index {
                    let what = format!("index {index} is given away, and is of ring {}", book.id);
                    self.suspect_either((of, other), (session, handle), what);
                }
                continue;
            }
            let told = book.told.iter();
            let told = told.filter(|(ring, told)| told.index == index && **ring != id);
            let told = told.map(|(ring, _)| *ring).next();
            let owed = book.owed.iter().find(|(_, owed)| **owed == index);
            match told.or(owed.map(|(ring, _)| *ring)) {
                Some(ring) if lossless => {
                    let what = format!(
                        "index {index} is given away, and a subscriber has not released ring {ring}"
                    );
                    self.suspect_either((of, other), (session, handle), what);
                }
                Some(_) => {
                    if let Some(book) = self.book_mut(of, other) {
                        book.owed.retain(|_, owed| *owed != index);
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// A handle has joined: everybody on the other side knows it, or sees that the version has moved.
    pub(super) fn joined(&mut self, session: u64, handle: u32) -> Result<(), String> {
        let Some(own) = self.book(session, handle) else {
            return Ok(());
        };
        let (number, id, role, index) = (own.number(), own.id, own.role, own.index);
        self.mix(id);
        let members = self.members.entry(number).or_default();
        members.insert((session, handle));
        for (of, other) in members.clone() {
            let Some(book) = self.book_mut(of, other) else {
                continue;
            };
            if book.role == role || book.told.contains_key(&id) || book.released.contains(&id) {
                continue;
            }
            if role == Role::Publisher {
                book.owed.insert(id, index);
            }
            if book.heard.is_some() && book.heard == book.word() {
                let what = format!(
                    "{role} {id} has joined, and handle {other} of session {of} does not know it and sees no new version"
                );
                self.suspect(of, other, what);
            }
        }
        self.synced(session, handle);
        Ok(())
    }

    /// A handle has come back.
    pub(super) fn came_back(&mut self, session: u64, handle: u32) {
        let Some(own) = self.book(session, handle) else {
            return;
        };
        let (number, id, role, index) = (own.number(), own.id, own.role, own.index);
        let members = self.members.entry(number).or_default();
        members.insert((session, handle));
        if role == Role::Subscriber {
            return;
        }
        for (of, other) in members.clone() {
            if let Some(book) = self.book_mut(of, other)
                && book.role == Role::Subscriber
                && !book.told.contains_key(&id)
                && !book.released.contains(&id)
            {
                book.owed.insert(id, index);
            }
        }
    }

    /// A handle that sees no newer version knows everybody on the other side.
    pub(super) fn synced(&mut self, session: u64, handle: u32) {
        let Some(own) = self.book(session, handle) else {
            return;
        };
        if own.heard != own.word() {
            return;
        }
        if let Some((ring, _)) = own.owed.first_key_value() {
            let what = format!("handle {handle} of session {session} was not told of ring {ring}");
            // A publisher may be refused before it has read that it was taken back: then there is no ring to be told of.
            let members = self.members.get(&own.number()).into_iter().flatten();
            let mut members = members.copied();
            let of_ring = members.find(|(of, other)| {
                let book = self.book(*of, *other);
                book.is_some_and(|book| book.id == *ring)
            });
            let either = of_ring.unwrap_or((session, handle));
            return self.suspect_either((session, handle), either, what);
        }
        let members = self.members.get(&own.number()).into_iter().flatten();
        let mut unknown = Vec::new();
        for &(of, other) in members {
            if let Some(book) = self.book(of, other)
                && book.role != own.role
                && !own.told.contains_key(&book.id)
                && !own.released.contains(&book.id)
            {
                let what = format!(
                    "handle {handle} of session {session} is told that it knows everybody, and does not know {} {}",
                    book.role, book.id
                );
                unknown.push((of, other, what));
            }
        }
        for (of, other, what) in unknown {
            self.suspect(of, other, what);
        }
    }
}
