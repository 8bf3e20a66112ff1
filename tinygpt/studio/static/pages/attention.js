import {call} from "../api.js";
import {h} from "../dom.js";
import {figure, matrixTable} from "../figure.js";
import {heatmap, legend} from "../heatmap.js";
import {promptBox, promptOf} from "../parts.js";
import {get, getNumber, set} from "../state.js";

export default {
  about: "When the model reads a token, every head looks back at earlier tokens and fetches something from them.",
  needs: "model",
  controls(root, context) {
    root.append(promptBox(context));
  },
  view(root, context) {
    const one = figure(root, "Pattern of a head", "Rows look, columns are looked at.");
    const map = heatmap({label: "Pattern"});
    return async (model) => {
      const layer = getNumber("layer", 0), head = getNumber("head", 0);
      const reply = await call(model, "attention", {prompt: promptOf(context), layer, head});
      const names = reply.data.tokens.map((token) => token.shown);
      map.update({rows: names, columns: names, values: reply.data.pattern, max: 1, rowName: "looks", columnName: "is looked at"});
      one.show(reply, h("div", {}, map, legend("0", "1")), matrixTable("looks", names, names, reply.data.pattern));
    };
  },
};
