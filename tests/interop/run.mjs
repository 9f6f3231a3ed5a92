// Runs bundles in transformers.js: node run.mjs JOBS.json RESULTS.json
// A job is {name, task, model, dtype, inputs, options}; its result is what the pipeline gives, tensors as nested arrays.
import { readFileSync, writeFileSync } from 'node:fs';
import { RawImage, env, pipeline } from '@huggingface/transformers';

const [jobs, results] = process.argv.slice(2);
const { folder, list } = JSON.parse(readFileSync(jobs, 'utf8'));
env.allowRemoteModels = false;
env.localModelPath = folder;
const found = {};
for (const { name, task, model, dtype, inputs, options } of list) {
  const run = await pipeline(task, model, { dtype });
  let given = inputs;
  if (task === 'image-classification') {
    given = new RawImage(Uint8ClampedArray.from(inputs.pixels), inputs.width, inputs.height, 3);
  } else if (task === 'automatic-speech-recognition') {
    given = Float32Array.from(inputs);
  }
  const output = await run(given, options);
  found[name] = typeof output.tolist === 'function' ? output.tolist() : output;
}
writeFileSync(results, JSON.stringify(found));
