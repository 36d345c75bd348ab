//! What a model is worth: its loss and, of tasks, the scores of its answers; and what a run says of the model that it keeps.

use std::{fs, path::Path, sync::Arc};

use anyhow::Context as _;
use fornax_data::{Split, text_tasks::ScoredTask};
use fornax_metrics::MetricError;
use fornax_models::{T5, generate::Seq2SeqOptions};
use fornax_pipelines::{Answers, PipelineError, Text2Text, Text2TextModel, Text2TextOptions};
use fornax_train::{Learner, Metrics, Run, evaluate, write_atomic};

use crate::{
    Data, TextToText,
    config::{Answering, metric_names},
    data::EvalSet,
};

/// The folder of a run that holds the answers.
pub(crate) const FOLDER: &str = "predictions";

/// What a model writes to the sources of one task's set.
pub(crate) struct TaskAnswers<'a> {
    pub(crate) task: &'a ScoredTask,
    pub(crate) answers: Answers<'a>,
}

/// Answers with the model that the learner holds.
pub(crate) struct Writer<'a> {
    pub(crate) data: &'a Data,
    pub(crate) max_source_len: usize,
    pub(crate) answering: Answering,
}

impl<'a> Writer<'a> {
    /// Loss, token accuracy and perplexity over all sets together, and for each set of a task the scores of greedy answers.
    pub(crate) fn measure(
        &self,
        sets: &'a [EvalSet],
        learner: &Learner<T5>,
        run: &Run<T5>,
    ) -> anyhow::Result<(Metrics, Vec<TaskAnswers<'a>>)> {
        let bar = run.eval_progress(sets.iter().map(|set| set.steps).sum());
        let batches = sets.iter().flat_map(EvalSet::iter);
        let progress = |done| bar.set_position(done);
        let mut metrics = evaluate(&learner.valid(), batches, &TextToText, learner.precision(), progress)?;
        bar.finish_and_clear();
        let answers = self.answer(sets, &self.answering.greedy, learner, run)?;
        for answers in &answers {
            metrics.values.extend(answers.scores(self.data.valid.len(), "")?);
        }
        Ok((metrics, answers))
    }

    /// Writes the answers of the model that is kept, to all valid and test sets of tasks, into the run's folder, and measures the test
    /// sets. Gives the best answers to the valid sets.
    pub(crate) fn write(&self, learner: &Learner<T5>, run: &mut Run<T5>) -> anyhow::Result<Vec<TaskAnswers<'a>>> {
        let mut shown = Vec::new();
        for (split, sets) in [(Split::Valid, &self.data.valid), (Split::Test, &self.data.test)] {
            if sets.iter().all(|set| set.task.is_none()) {
                continue;
            }
            let (mut metrics, mut answers) = self.measure(sets, learner, run)?;
            self.write_tables(&answers, &split.to_string(), run.dir())?;
            let beams = self.answering.last.num_beams;
            if beams > 1 {
                answers = self.answer(sets, &self.answering.last, learner, run)?;
                self.write_tables(&answers, &format!("{split}-beam{beams}"), run.dir())?;
                for answers in &answers {
                    metrics.values.extend(answers.scores(self.data.valid.len(), &format!("_beam{beams}"))?);
                }
            }
            if split == Split::Test {
                run.log_test(&metrics);
            } else {
                run.log_kept(&metrics);
                shown = answers;
            }
        }
        Ok(shown)
    }

    fn answer(
        &self,
        sets: &'a [EvalSet],
        decoding: &Seq2SeqOptions,
        learner: &Learner<T5>,
        run: &Run<T5>,
    ) -> anyhow::Result<Vec<TaskAnswers<'a>>> {
        let options = self.options(decoding);
        let scored = || sets.iter().filter_map(|set| Some((set, set.task.as_ref()?)));
        let bar = run.eval_progress(scored().map(|(set, _)| set.pairs() as u64).sum());
        let answers = scored().map(|(set, task)| {
            let writer = self.pipeline(learner, set.rows)?;
            let answers = writer.answer(&task.texts, set.pairs(), &options, |texts| bar.inc(texts as u64))?;
            Ok(TaskAnswers { task, answers })
        });
        let answers = answers.collect::<anyhow::Result<_>>()?;
        bar.finish_and_clear();
        Ok(answers)
    }

    /// The answer to one text.
    pub(crate) fn answer_text(&self, text: &str, learner: &Learner<T5>) -> Result<String, PipelineError> {
        let answers = self.pipeline(learner, 1)?.run(&[text], &self.options(&self.answering.last))?;
        Ok(answers.into_iter().flatten().next().map(|best| best.text).unwrap_or_default())
    }

    fn pipeline(&self, learner: &Learner<T5>, batch_size: usize) -> Result<Text2Text, PipelineError> {
        let model = Text2TextModel::T5(Box::new(learner.valid()));
        Ok(Text2Text::new(model, Arc::clone(&self.data.tokenizer), None)?.with(learner.precision(), batch_size))
    }

    /// Sources of pairs have their prefixes.
    fn options(&self, decoding: &Seq2SeqOptions) -> Text2TextOptions {
        let (max_source_len, decoding) = (self.max_source_len, decoding.clone());
        Text2TextOptions { prefix: String::new(), max_source_len, decoding }
    }

    fn write_tables(&self, answers: &[TaskAnswers<'_>], name: &str, run: &Path) -> anyhow::Result<()> {
        let folder = run.join(FOLDER);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        for TaskAnswers { task, answers } in answers {
            answers.limits().warn(&format!("{} {name}: ", task.name), &self.options(&self.answering.last));
            write_atomic(&folder.join(format!("{}-{name}.tsv", task.name)), answers.table().as_bytes())?;
        }
        Ok(())
    }
}

impl TaskAnswers<'_> {
    /// The task's metrics under all their names, where there are so many tasks; `suffix` comes behind each.
    fn scores(&self, tasks: usize, suffix: &str) -> Result<Vec<(String, f64)>, MetricError> {
        let names = |(metric, value): (String, f64)| {
            let names = metric_names(&self.task.name, &metric, tasks).into_iter();
            names.map(move |name| (format!("{name}{suffix}"), value))
        };
        Ok(self.answers.scores(&[self.task.metric])?.into_iter().flat_map(names).collect())
    }
}
