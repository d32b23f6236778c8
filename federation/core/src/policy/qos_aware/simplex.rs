//! Small linear programs.
//!
//! G. Dantzig's simplex method on a condensed tableau, as in R. Vanderbei, "Linear
//! Programming", chapter 2, with R. Bland's rule once it stalls ("New finite pivoting
//! rules for the simplex method", Mathematics of Operations Research 2(2), 1977), so
//! that it ends. Of our own, for the crates that solve such programs read a clock or
//! bring a dozen others; and ours need no first phase, for to do nothing is feasible.

/// Pivots after which a program is given up: several times what one takes of the
/// size that the policy makes.
const PIVOTS_MAX: usize = 5_000;

/// Pivots in a row that gain nothing before Bland's rule.
const STALLS_MAX: usize = 20;

/// What is taken for zero.
const TINY: f64 = 1e-9;

/// Maximises `gains x` where each row of `limits` is `factors x <= bound` with no
/// bound below 0, and no part of x is below 0.
#[derive(Debug, Clone, Default)]
pub(super) struct Program {
    /// What one of each part gains.
    pub(super) gains: Vec<f64>,
    /// Factors of the parts that a row names, and its bound.
    pub(super) limits: Vec<(Vec<(usize, f64)>, f64)>,
}

/// A program and where it stands. The last row is the objective's, the last column
/// holds the bounds.
struct Tableau {
    cells: Vec<f64>,
    width: usize,
    /// Which part or slack each row, and each column, stands for: parts first.
    rows: Vec<usize>,
    columns: Vec<usize>,
}

impl Program {
    /// The best x; `None` where the gain has no bound, or too many steps were taken.
    pub(super) fn solve(&self) -> Option<Vec<f64>> {
        let parts = self.gains.len();
        let mut tableau = Tableau::new(self);
        let mut stalls = 0;
        for _ in 0..PIVOTS_MAX {
            let Some(column) = tableau.entering(stalls > STALLS_MAX) else {
                return Some(tableau.parts(parts));
            };
            let row = tableau.leaving(column)?;
            let before = tableau.gain();
            tableau.pivot(row, column);
            stalls = match tableau.gain() > before + TINY {
                true => 0,
                false => stalls + 1,
            };
        }
        None
    }
}

impl Tableau {
    fn new(program: &Program) -> Tableau {
        let (parts, limits) = (program.gains.len(), program.limits.len());
        let width = parts + 1;
        let mut cells = vec![0.0; width * (limits + 1)];
        for (row, (factors, bound)) in program.limits.iter().enumerate() {
            for (part, factor) in factors {
                cells[row * width + part] += factor;
            }
            cells[row * width + parts] = bound.max(0.0);
        }
        for (part, gain) in program.gains.iter().enumerate() {
            cells[limits * width + part] = -gain;
        }
        Tableau {
            cells,
            width,
            rows: (parts..parts + limits).collect(),
            columns: (0..parts).collect(),
        }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.cells[row * self.width + column]
    }

    fn gain(&self) -> f64 {
        self.at(self.rows.len(), self.width - 1)
    }

    /// The column that gains most; by Bland's rule the first that gains.
    fn entering(&self, by_bland: bool) -> Option<usize> {
        let last = self.rows.len();
        let gains = (0..self.columns.len()).filter(|column| self.at(last, *column) < -TINY);
        match by_bland {
            true => gains.min_by_key(|column| self.columns[*column]),
            false => {
                gains.min_by(|one, other| self.at(last, *one).total_cmp(&self.at(last, *other)))
            }
        }
    }

    /// The row whose bound is met first; of equals the first by its name.
    fn leaving(&self, column: usize) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        for row in 0..self.rows.len() {
            let factor = self.at(row, column);
            if factor <= TINY {
                continue;
            }
            let ratio = self.at(row, self.width - 1) / factor;
            let is_less = match best {
                None => true,
                Some((other, least)) if (ratio - least).abs() <= TINY => {
                    self.rows[row] < self.rows[other]
                }
                Some((_, least)) => ratio < least,
            };
            if is_less {
                best = Some((row, ratio));
            }
        }
        best.map(|(row, _)| row)
    }

    /// Changes places of a row and a column.
    fn pivot(&mut self, row: usize, column: usize) {
        let width = self.width;
        let pivot = self.at(row, column);
        let own: Vec<f64> = (0..width).map(|at| self.at(row, at) / pivot).collect();
        for (at, other) in self.cells.chunks_exact_mut(width).enumerate() {
            let factor = other[column];
            if at == row || factor == 0.0 {
                continue;
            }
            for (cell, own) in other.iter_mut().zip(&own) {
                *cell -= factor * own;
            }
            other[column] = -factor / pivot;
        }
        let cells = &mut self.cells[row * width..(row + 1) * width];
        cells.copy_from_slice(&own);
        cells[column] = 1.0 / pivot;
        std::mem::swap(&mut self.rows[row], &mut self.columns[column]);
    }

    fn parts(&self, count: usize) -> Vec<f64> {
        let mut parts = vec![0.0; count];
        for (row, name) in self.rows.iter().enumerate() {
            if let Some(part) = parts.get_mut(*name) {
                *part = self.at(row, self.width - 1).max(0.0);
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gain(program: &Program, x: &[f64]) -> f64 {
        let each = program.gains.iter().zip(x);
        each.map(|(gain, part)| gain * part).sum()
    }

    fn is_feasible(program: &Program, x: &[f64]) -> bool {
        let holds = |(factors, bound): &(Vec<(usize, f64)>, f64)| {
            let sum: f64 = factors.iter().map(|(part, factor)| factor * x[*part]).sum();
            sum <= bound + 1e-6
        };
        x.iter().all(|part| *part >= -1e-6) && program.limits.iter().all(holds)
    }

    /// Solves a square system by Gauss's elimination.
    fn solved(mut rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
        let count = rows.len();
        for at in 0..count {
            let largest = |one: &usize, other: &usize| {
                rows[*one][at].abs().total_cmp(&rows[*other][at].abs())
            };
            let best = (at..count).max_by(largest)?;
            rows.swap(at, best);
            if rows[at][at].abs() < 1e-9 {
                return None;
            }
            for other in 0..count {
                if other != at {
                    let factor = rows[other][at] / rows[at][at];
                    let own = rows[at].clone();
                    for (cell, own) in rows[other].iter_mut().zip(&own) {
                        *cell -= factor * own;
                    }
                }
            }
        }
        Some(
            (0..count)
                .map(|at| rows[at][count] / rows[at][at])
                .collect(),
        )
    }

    /// The best corner of all that there are.
    fn by_brute_force(program: &Program) -> f64 {
        let parts = program.gains.len();
        let mut planes: Vec<Vec<f64>> = Vec::new();
        for (factors, bound) in &program.limits {
            let mut plane = vec![0.0; parts + 1];
            for (part, factor) in factors {
                plane[*part] += factor;
            }
            plane[parts] = *bound;
            planes.push(plane);
        }
        for part in 0..parts {
            let mut plane = vec![0.0; parts + 1];
            plane[part] = 1.0;
            planes.push(plane);
        }
        let mut best = 0.0_f64;
        for chosen in 0_u32..1 << planes.len() {
            if chosen.count_ones() as usize != parts {
                continue;
            }
            let has = |(at, _): &(usize, &Vec<f64>)| chosen >> at & 1 == 1;
            let rows = planes.iter().enumerate().filter(has);
            if let Some(x) = solved(rows.map(|(_, plane)| plane.clone()).collect())
                && is_feasible(program, &x)
            {
                best = best.max(gain(program, &x));
            }
        }
        best
    }

    proptest! {
        #[test]
        fn the_optimum_is_that_of_a_brute_force_search(
            gains in prop::collection::vec(-3.0..5.0_f64, 1..5),
            rows in prop::collection::vec((prop::collection::vec(-1.0..3.0_f64, 4), 0.0..4.0_f64), 0..4),
        ) {
            let parts = gains.len();
            let mut limits: Vec<_> = rows
                .into_iter()
                .map(|(factors, bound)| {
                    (factors.into_iter().take(parts).enumerate().collect(), bound)
                })
                .collect();
            // Bounded, as shares are.
            limits.push(((0..parts).map(|part| (part, 1.0)).collect(), 3.0));
            let program = Program { gains, limits };
            let x = program.solve().expect("it is bounded");
            prop_assert!(is_feasible(&program, &x), "{x:?}");
            let (found, best) = (gain(&program, &x), by_brute_force(&program));
            prop_assert!((found - best).abs() < 1e-6, "{found} and not {best}");
        }
    }

    #[test]
    fn what_has_no_bound_has_no_optimum() {
        let program = Program {
            gains: vec![1.0, 1.0],
            limits: vec![(vec![(0, 1.0), (1, -1.0)], 1.0)],
        };
        assert_eq!(program.solve(), None);
    }

    #[test]
    fn the_program_on_which_dantzig_s_rule_cycles_ends() {
        // E. Beale, "Cycling in the dual simplex algorithm", 1955.
        let program = Program {
            gains: vec![0.75, -20.0, 0.5, -6.0],
            limits: vec![
                (vec![(0, 0.25), (1, -8.0), (2, -1.0), (3, 9.0)], 0.0),
                (vec![(0, 0.5), (1, -12.0), (2, -0.5), (3, 3.0)], 0.0),
                (vec![(2, 1.0)], 1.0),
            ],
        };
        let x = program.solve().expect("it ends");
        assert!((gain(&program, &x) - 1.25).abs() < 1e-9, "{x:?}");
    }
}
