//! Places for values that come and go: a value is put where another lay before, so that its coming
//! allocates nothing.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

/// Boxes that are used again, at most so many at rest.
pub struct Nest<T> {
    spare: RefCell<Vec<Box<MaybeUninit<T>>>>,
    spare_max: usize,
}

impl<T> Nest<T> {
    /// With none to spare yet.
    pub fn new(spare_max: usize) -> Rc<Nest<T>> {
        Rc::new(Nest { spare: RefCell::default(), spare_max })
    }

    /// Puts a value into a box.
    pub fn lend(self: &Rc<Self>, value: T) -> Nested<T> {
        let place = self.spare.borrow_mut().pop().unwrap_or_else(Box::new_uninit);
        let value = NonNull::from(Box::leak(Box::write(place, value)));
        Nested { value, nest: self.clone() }
    }

    fn take_back(&self, place: Box<MaybeUninit<T>>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < self.spare_max {
            spare.push(place);
        }
    }
}

/// A value in a box of a [`Nest`], which gets the box back when this is dropped.
pub struct Nested<T> {
    /// Of a box that was leaked in `lend`; nobody else has it.
    value: NonNull<T>,
    nest: Rc<Nest<T>>,
}

impl<T> Deref for Nested<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: `value` is initialised and ours alone until this is dropped.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for Nested<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for Nested<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from a box in `lend`; as a box of something uninitialised it neither
        // reads nor drops the value, which is dropped once, here. Should that panic, the box is freed.
        let mut place = unsafe { Box::from_raw(self.value.cast::<MaybeUninit<T>>().as_ptr()) };
        unsafe { place.assume_init_drop() };
        self.nest.take_back(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_where_another_lay_and_each_is_dropped_once() {
        let (nest, witness) = (Nest::new(1), Rc::new(()));
        let first = nest.lend(witness.clone());
        let second = nest.lend(witness.clone());
        let address: *const Rc<()> = &raw const *first;
        assert_eq!(Rc::strong_count(&witness), 3);
        drop(first);
        assert_eq!(Rc::strong_count(&witness), 2, "dropped although its box is kept");
        drop(second);
        assert_eq!((Rc::strong_count(&witness), nest.spare.borrow().len()), (1, 1));
        let mut third = nest.lend(witness.clone());
        assert!(std::ptr::eq(address, &raw const *third));
        *third = Rc::new(());
        drop(third);
        assert_eq!(Rc::strong_count(&witness), 1);
    }
}
