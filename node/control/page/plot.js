// A small plot of the last hour, drawn by uPlot.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";

const WIDE = 132;
const HIGH = 30;
const DARK = matchMedia("(prefers-color-scheme: dark)");
const BAR = 0.8; // of a minute
const BARE = { cursor: { show: false }, legend: { show: false }, axes: [{ show: false }, { show: false }], padding: [2, 1, 2, 1] };

/** Whether the page is dark now: a canvas keeps the colours with which it was drawn. */
function useDark() {
  const [isDark, setDark] = useState(DARK.matches);
  useEffect(() => {
    const change = () => setDark(DARK.matches);
    DARK.addEventListener("change", change);
    return () => DARK.removeEventListener("change", change);
  }, []);
  return isDark;
}

/**
 * `series` are [numbers, variable of the style sheet with the colour], the later ones in front. A number for each minute, or null.
 * `top` is the least number at the top.
 */
export function Plot({ name, endsAt, series, top = 1 }) {
  const place = useRef(null);
  const isDark = useDark();
  const told = JSON.stringify(series);
  useEffect(() => {
    let plot = null;
    let isOver = false;
    const draw = async () => {
      const { default: uPlot } = await import("./vendor/uPlot.js"); // only those who look at plots load it
      if (isOver) return;
      const style = getComputedStyle(place.current);
      const paths = uPlot.paths.bars({ size: [BAR, HIGH] });
      const bars = series.map(([, colour]) => ({ fill: style.getPropertyValue(colour), width: 0, paths, points: { show: false } }));
      const minutes = series[0][0].map((_, index, all) => endsAt - 60 * (all.length - 1 - index));
      const range = (_, least, most) => [0, Math.max(most, top)];
      const options = { ...BARE, width: WIDE, height: HIGH, series: [{}, ...bars], scales: { y: { range } } };
      plot = new uPlot(options, [minutes, ...series.map(([numbers]) => numbers)], place.current);
    };
    draw();
    return () => {
      isOver = true;
      plot?.destroy();
    };
  }, [told, isDark]);
  return html`<div class="plot" role="img" aria-label=${name} ref=${place}></div>`;
}
