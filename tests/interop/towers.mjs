// Embeds a text with a graph whose weights are another graph's: node towers.mjs FOLDER MODEL TEXT RESULTS.json
// under Node, where onnxruntime finds them, and in WebAssembly as browsers run it, where they are handed over.
import { readFileSync, writeFileSync } from 'node:fs';
import * as ort from 'onnxruntime-web';
import { AutoTokenizer, CLIPTextModelWithProjection, env } from '@huggingface/transformers';

const [folder, model, text, results] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = folder;
const inputs = await (await AutoTokenizer.from_pretrained(model))(text);
const tower = await CLIPTextModelWithProjection.from_pretrained(model, { dtype: 'fp32' });
const node = (await tower(inputs)).text_embeds.tolist();
const read = (name) => new Uint8Array(readFileSync(`${folder}${model}/onnx/${name}`));
const externalData = [{ path: 'model.onnx_data', data: read('model.onnx_data') }];
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(read('text_model.onnx'), { externalData });
const feed = Object.fromEntries(
  session.inputNames.map((name) => [name, new ort.Tensor('int64', inputs[name].data, inputs[name].dims)]),
);
const wasm = [Array.from((await session.run(feed)).text_embeds.data)];
writeFileSync(results, JSON.stringify({ node, wasm }));
