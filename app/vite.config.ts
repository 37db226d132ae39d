import { defineConfig } from "vite";

// The bundle is committed and shipped in the wheel: stable names, so that a new build changes files, not their number.
export default defineConfig({
  base: "./",
  build: {
    outDir: "../src/pixeltrail/app/static",
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    rollupOptions: {
      output: { entryFileNames: "page.js", chunkFileNames: "[name].js", assetFileNames: "[name][extname]" },
    },
  },
});
