//! The integration tests of the torture in one program, a module for each subject.
//!
//! They run at once, on threads of one process: a test here changes nothing that a whole process has. The torture runs in
//! processes of its own. `hostile` has a program of its own, because it takes all the descriptors that its user may have in flight.

mod can_fail;
mod faults;
mod fuzz;
mod kill_points;
mod simulate;
mod trust;
