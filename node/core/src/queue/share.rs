//! Equal shares within a class: whose lane is next, by what each namespace and
//! each of its functions has been given so far.
//!
//! A **pass** is processor time that was given, in nanoseconds of one core.
//! Among the lanes that want something, those of the namespace with the least
//! pass come first, and among these the function with the least (stride
//! scheduling over two levels, Waldspurger and Weihl, 1995, section 4, with
//! equal weights). Whoever wanted nothing for a while goes on from where the
//! others are: it saves no credit. What a call is expected to take is charged
//! when it goes, and corrected when it has ended.

use std::collections::BTreeMap;

/// How far a namespace or a function may be ahead of the one that was served
/// last, in nanoseconds of one core. Without it whoever made one very long call
/// would wait for as long once others come.
const AHEAD_MOST: u64 = 10_000_000_000;

#[derive(Debug, Default, Clone)]
struct Namespace {
    pass: u64,
    /// The pass of its function that was served last, before it was.
    served: u64,
}

#[derive(Debug, Default, Clone)]
struct Function {
    pass: u64,
    namespace: usize,
}

/// What the namespaces and functions of one class have been given.
#[derive(Debug, Default)]
pub(super) struct Shares {
    namespaces: Vec<Namespace>,
    functions: Vec<Function>,
    /// The pass of the namespace that was served last, before it was.
    served: u64,
}

/// What a function and its namespace were given, after one of them was given
/// more or less.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passes {
    pub(super) namespace: usize,
    pub(super) namespace_pass: u64,
    /// That of the function.
    pub(super) pass: u64,
}

impl Shares {
    /// Says to which namespace a function belongs, which nothing is known of.
    pub(super) fn add(&mut self, function: usize, namespace: usize) {
        if self.functions.len() <= function {
            self.functions.resize(function + 1, Function::default());
        }
        if self.namespaces.len() <= namespace {
            self.namespaces.resize(namespace + 1, Namespace::default());
        }
        self.functions[function] = Function { pass: 0, namespace };
    }

    /// Forgets what a namespace was given whose number another had before.
    pub(super) fn begin(&mut self, namespace: usize) {
        if let Some(used) = self.namespaces.get_mut(namespace) {
            *used = Namespace::default();
        }
    }

    /// What a function and its namespace were given.
    pub(super) fn passes(&self, function: usize) -> Passes {
        let Function { pass, namespace } = self.functions[function];
        Passes {
            namespace,
            namespace_pass: self.namespaces[namespace].pass,
            pass,
        }
    }

    /// Has a function that wanted nothing go on from where others are.
    pub(super) fn join(&mut self, function: usize) -> Passes {
        let Function { pass, namespace } = &mut self.functions[function];
        let home = &mut self.namespaces[*namespace];
        *pass = (*pass).max(home.served);
        home.pass = home.pass.max(self.served);
        Passes {
            namespace: *namespace,
            namespace_pass: home.pass,
            pass: *pass,
        }
    }

    /// Takes note that a call of a function goes, in its turn.
    pub(super) fn serve(&mut self, function: usize, cost: u64) -> Passes {
        let Function { pass, namespace } = &self.functions[function];
        self.namespaces[*namespace].served = *pass;
        self.served = self.namespaces[*namespace].pass;
        self.correct(function, 0, cost)
    }

    /// Puts what a call took in the place of what it was charged.
    pub(super) fn correct(&mut self, function: usize, charged: u64, took: u64) -> Passes {
        let Function { pass, namespace } = &mut self.functions[function];
        let home = &mut self.namespaces[*namespace];
        let moved = |pass: u64, served: u64| {
            let pass = pass.saturating_sub(charged).saturating_add(took);
            pass.min(served.saturating_add(AHEAD_MOST))
        };
        *pass = moved(*pass, home.served);
        home.pass = moved(home.pass, self.served);
        Passes {
            namespace: *namespace,
            namespace_pass: home.pass,
            pass: *pass,
        }
    }
}

/// Names of namespaces as small numbers, as long as they have functions.
#[derive(Debug, Default)]
pub(crate) struct Names {
    numbers: BTreeMap<Box<str>, (usize, usize)>,
    free: Vec<usize>,
}

impl Names {
    /// The number of a namespace that gets one more function, and whether that
    /// is its first.
    pub(crate) fn enter(&mut self, name: &str) -> (usize, bool) {
        if let Some((number, functions)) = self.numbers.get_mut(name) {
            *functions += 1;
            return (*number, false);
        }
        let number = self.free.pop().unwrap_or(self.numbers.len());
        self.numbers.insert(name.into(), (number, 1));
        (number, true)
    }

    /// Takes note that it has one function less.
    pub(crate) fn leave(&mut self, name: &str) {
        let Some((number, functions)) = self.numbers.get_mut(name) else {
            return;
        };
        *functions -= 1;
        if *functions == 0 {
            self.free.push(*number);
            self.numbers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_a_namespace_is_given_again_when_it_has_no_function() {
        let mut names = Names::default();
        let mut enter = |name: &str| names.enter(name);
        assert_eq!(enter("a"), (0, true));
        assert_eq!(enter("b"), (1, true));
        assert_eq!(enter("a"), (0, false));
        names.leave("a");
        assert_eq!(names.enter("c"), (2, true));
        names.leave("a");
        assert_eq!(names.enter("d"), (0, true));
        assert_eq!(names.enter("a"), (3, true));
    }

    #[test]
    fn whoever_is_new_has_no_credit_and_no_debt() {
        let mut shares = Shares::default();
        shares.add(0, 0);
        shares.add(1, 1);
        for _ in 0..100 {
            shares.serve(0, 1_000);
        }
        shares.join(1);
        let (old, new) = (shares.passes(0), shares.passes(1));
        assert_eq!(old.namespace_pass - new.namespace_pass, 1_000);
    }

    #[test]
    fn a_namespace_does_not_inherit_from_one_that_is_no_more() {
        let mut shares = Shares::default();
        shares.add(0, 0);
        shares.serve(0, 1_000);
        shares.begin(0);
        shares.add(1, 0);
        let turn = shares.passes(1);
        assert_eq!((turn.namespace_pass, turn.pass), (0, 0));
    }

    #[test]
    fn nobody_is_further_ahead_than_the_bound() {
        let mut shares = Shares::default();
        shares.add(0, 0);
        shares.serve(0, u64::MAX);
        let turn = shares.passes(0);
        assert_eq!((turn.namespace_pass, turn.pass), (AHEAD_MOST, AHEAD_MOST));
        shares.correct(0, u64::MAX, 5);
        let turn = shares.passes(0);
        assert_eq!(turn.pass, 5);
    }
}
