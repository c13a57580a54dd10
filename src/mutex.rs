//! Mutexes whose values are changed in single steps, so that a panic of another thread leaves them whole.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks the mutex, also after a panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
